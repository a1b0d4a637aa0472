"""Avro and Protobuf on a real broker with a real registry: schemas that change on the way, kills, and the registry gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from streamseg.application.wiring import examine
from streamseg.config import Config
from streamseg.engine.clock import SystemClock
from streamseg.transports.registry import descriptors_of
from tests.harness import Event, event, shoppers
from tests.integration.kafka_jobs import Job, OutsideReader, check
from tests.registry import Apicurio
from tests.registry import apicurio as apicurio
from tests.waiting import until

# All with one registry, which takes seconds to start.
pytestmark = pytest.mark.xdist_group("registry")
CUSTOMERS = 200
PROTO = """syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Event {
  string customer_id = 1;
  google.protobuf.Timestamp event_time = 2;
  optional double age = 3;
  optional double income = 4;
  optional double purchases = 5;
}
"""
FIELDS: list[dict[str, Any]] = [
    {"name": "customer_id", "type": "string"},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "age", "type": "double"},
    {"name": "income", "type": ["null", "double"], "default": None},
    {"name": "purchases", "type": "double"},
]


class Producers:
    """What shops write with: confluent-kafka's own serializers, and a schema that is registered as text."""

    def __init__(self, url: str, topic: str) -> None:
        self._client = SchemaRegistryClient({"url": url})
        self._context = SerializationContext(topic, MessageField.VALUE)
        self._avro = self._of_avro(FIELDS)
        self._newer = self._of_avro([*FIELDS, {"name": "shop", "type": "string", "default": "web"}])
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors_of(PROTO, {})).file:
            pool.Add(file)
        self._message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("Event"))
        self._python = ProtobufSerializer(self._message, self._client, {"use.deprecated.format": False})
        number = self._client.register_schema("java-value", Schema(PROTO, "PROTOBUF"))
        self._head = b"\0" + number.to_bytes(4, "big") + b"\0"

    def _of_avro(self, fields: list[dict[str, Any]]) -> AvroSerializer:
        # In the subject of a topic's values, as a compatible version.
        made: AvroSerializer = AvroSerializer(
            self._client, json.dumps({"type": "record", "name": "Event", "fields": fields})
        )
        return made

    def written(self, events: list[Event], kind: str) -> list[Event]:
        return [self._written(json.loads(value or b""), kind) for _, value, _ in events]

    def _written(self, event: dict[str, Any], kind: str) -> Event:
        key = event["customer_id"].encode()
        event["event_time"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event["event_time"])
        if kind == "avro":
            return key, self._avro(event, self._context), None
        if kind == "newer avro":
            return key, self._newer({**event, "shop": "app"}, self._context), None
        time = event.pop("event_time")
        message = self._message(**event)
        message.event_time.FromDatetime(time)
        if kind == "protobuf text":
            return key, self._head + message.SerializeToString(), None
        return key, self._python(message, SerializationContext("python", MessageField.VALUE)), None


@pytest.fixture
def job(kafka: str, apicurio: Apicurio, tmp_path: Path) -> Iterator[Job]:
    found = Job(kafka, tmp_path, n_partitions=2, input={"registry": apicurio.url})
    yield found
    found.close()


def test_schemas_change_workers_die_the_registry_goes_and_nothing_is_lost(job: Job, apicurio: Apicurio) -> None:
    producers, kinds = Producers(apicurio.url, job.names.input), ["avro", "protobuf", "newer avro", "protobuf text"]
    plain = shoppers(2_400, CUSTOMERS)
    events: list[Event] = []

    def send(kind: str) -> None:
        first = len(events)
        written = producers.written(plain[first : first + 400], kind)
        events.extend(written)
        job.produce(written)

    job.start("w0")
    job.start("w1")
    job.until_working("w0")
    outside = OutsideReader(job)
    outside.start()
    for i, kind in enumerate(kinds):
        send(kind)
        worker = f"w{i % 2}"
        until(lambda: sum(job.committed_or_none().values()) > len(events) - 400, "some of it is committed")
        job.kill(worker)
        job.start(worker)
    until(job.done, "all is committed")
    apicurio.stop()
    try:
        send("avro")
        until(job.done, "known schemas need no registry")
    finally:
        apicurio.start()
    send("newer avro")
    report = check(job, outside, events)
    outside.close()
    assert report.dead_letters == 0
    assert report.tags > 1_000
    apicurio.stop()
    try:
        assert job.verify().unread == []
    finally:
        apicurio.start()


def test_a_job_waits_for_a_registry_that_is_away(job: Job, apicurio: Apicurio) -> None:
    events = Producers(apicurio.url, job.names.input).written(shoppers(400, CUSTOMERS), "avro")
    apicurio.stop()
    try:
        job.start("w0")
        job.until_working("w0")
        job.produce(events)
        until(lambda: bool(job.events("w0", "retrying")), "it says that it waits")
        assert "schema registry cannot be reached" in job.events("w0", "retrying")[0]["message"]
        assert sum(job.committed().values()) == 0
    finally:
        apicurio.start()
    until(job.done, "all is committed")
    assert job.verify().dead_letters == 0


def test_tags_in_avro_are_those_that_verify_derives_and_a_restart_needs_no_registry(
    kafka: str, apicurio: Apicurio, tmp_path: Path
) -> None:
    with closing(Job(kafka, tmp_path, 2, input={"registry": apicurio.url}, output={"format": "avro"})) as job:
        examined = partial(examine, Config.model_validate(job.config), SystemClock())
        assert {found.ok for found in examined() if found.what == "output schemas"} == {None}
        plain = shoppers(1_200, CUSTOMERS)
        job.start("w0")
        job.until_working("w0")
        job.produce(plain[:600])
        until(job.done, "all is committed")
        assert {found.ok for found in examined() if found.what == "output schemas"} == {True}
        client = SchemaRegistryClient({"url": apicurio.url})
        apicurio.stop()
        try:
            job.kill("w0")
            job.start("w0")
            job.produce([*plain[600:], event("c5", 3e5, erase=True)])
            until(job.done, "a restart needs no registry")
            assert job.verify().tags >= 1_200
        finally:
            apicurio.start()
        read: Any = AvroDeserializer(client)
        found: list[dict[str, Any]] = []
        for key, value in committed_records(kafka, job.names.assignments):
            customer = read(key, SerializationContext(job.names.assignments, MessageField.KEY))
            tag = read(value, SerializationContext(job.names.assignments, MessageField.VALUE))
            assert customer == ("c5" if tag is None else tag["customer_id"])
            found.append(tag)
        sources = [(tag["source"]["partition"], tag["source"]["offset"]) for tag in found if tag and tag["source"]]
        assert len(sources) == len(set(sources)) == 1_200
        assert found.count(None) == 1  # type: ignore[arg-type]


def committed_records(servers: str, topic: str) -> list[tuple[bytes, bytes | None]]:
    """All of a topic, as another client reads it."""
    reader = Consumer(
        {"bootstrap.servers": servers, "group.id": topic, "isolation.level": "read_committed", "enable.partition.eof": True}
    )
    partitions = list(reader.list_topics(topic).topics[topic].partitions)
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    found: list[tuple[bytes, bytes | None]] = []
    ended = 0
    while ended < len(partitions):
        message = reader.poll(30.0)
        assert message is not None
        if message.error() is not None:
            ended += 1
        else:
            found.append((message.key() or b"", message.value()))
    reader.close()
    return found


def test_the_doctor_says_what_a_topic_holds_and_what_to_set(job: Job, apicurio: Apicurio) -> None:
    job.produce(Producers(apicurio.url, job.names.input).written(shoppers(40, CUSTOMERS), "avro"))
    without = {**job.config, "input": {key: value for key, value in job.config["input"].items() if key != "registry"}}
    findings = [found for found in examine(Config.model_validate(without), SystemClock()) if found.what == "schemas"]
    assert [found.ok for found in findings] == [False]
    assert "input.registry" in findings[0].text
    findings = list(examine(Config.model_validate(job.config), SystemClock()))
    (named,) = [found for found in findings if found.what == "schemas"]
    assert named.ok
    assert "-value version 1), which is Avro" in named.text
    assert [found.ok for found in findings if found.what == "events"] == [True]

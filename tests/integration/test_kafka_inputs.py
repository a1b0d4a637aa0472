"""Fields in keys and headers, and events that are sent twice, on a real broker with workers that die."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamseg.engine.ports import Topic
from streamseg.transports.kafka.client import Connection
from streamseg.transports.kafka.reader import KafkaReader
from tests.harness import published
from tests.integration.kafka_jobs import Job
from tests.waiting import until

N_EVENTS, CUSTOMERS = 2_000, 150
INPUT = {
    "customer_id": "key.id",
    "key_format": "json",
    "where": {"headers.source": "shop"},
    "deduplicate": "24h",
}


@pytest.fixture(name="job")
def _job(kafka: str, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka, tmp_path, n_partitions=2, input=INPUT)
    yield job
    job.close()


def send(job: Job, rng: random.Random, numbers: range) -> tuple[int, int]:
    """Events of these numbers, some twice, some of another source. Returns how many are meant, and how many repeated."""
    client = Producer({"bootstrap.servers": job.servers, "linger.ms": 20})
    meant = repeated = 0
    for i in numbers:
        customer = i % CUSTOMERS
        partition, group = customer % 2, customer % 3
        value = {"event_id": f"e{i}", "event_time": 1_700_000_000_000 + i * 1_000, "age": 20 + 20 * group + rng.random()}
        value |= {"income": 1e4 * (group + 1) + rng.random(), "purchases": 3.0 * group}
        source = "shop" if rng.random() < 0.9 else "test"
        times = 2 if rng.random() < 0.1 else 1
        for _ in range(times):
            client.produce(
                job.names.input,
                json.dumps(value).encode(),
                json.dumps({"id": customer}).encode(),
                partition,
                headers=[("source", source.encode())],
            )
            job.produced[partition] += 1
        if source == "shop":
            meant, repeated = meant + 1, repeated + times - 1
    client.flush(30)
    return meant, repeated


def test_keys_headers_and_repeats_over_kills(job: Job) -> None:
    rng = random.Random(5)
    job.start("w0")
    job.start("w1")
    job.until_working("w0")
    meant = repeated = 0
    for i in range(4):
        sent = send(job, rng, range(i * N_EVENTS // 4, (i + 1) * N_EVENTS // 4))
        meant, repeated = meant + sent[0], repeated + sent[1]
        until(lambda: sum(job.committed_or_none().values()) > sum(job.produced) - 400, "some of it is committed")
        job.kill(f"w{i % 2}")
        job.start(f"w{i % 2}")
    until(job.done, "all is committed")
    reader = KafkaReader(Connection(job.servers), job.names)
    tags = [json.loads(tag) for p in range(2) for tag in published(reader, Topic.ASSIGNMENTS, p) if tag is not None]
    reader.close()
    of_events = Counter(tag["event_id"] for tag in tags if tag["source"] is not None)
    assert repeated > 50
    assert len(of_events) == sum(of_events.values()) == meant
    assert {tag["customer_id"] for tag in tags} == {str(i) for i in range(CUSTOMERS)}
    report = job.verify()
    assert report.dead_letters == 0
    assert report.records == sum(job.produced)

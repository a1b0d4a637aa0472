"""The commands around a job on Kafka, as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from streamseg.application.wiring import open_reader
from streamseg.config import Config
from streamseg.engine.ports import Log
from streamseg.transports.kafka.client import ConfigResource, ConfigResourceType, Connection, admin, discarded
from streamseg.transports.kafka.repartition import Repartition
from tests.broker import new_name
from tests.harness import event, write_lines
from tests.integration.kafka_jobs import ROOT, Job, OutsideReader, check, stream
from tests.processes import Process, ran
from tests.stores import create_input, produce
from tests.waiting import until


@pytest.fixture(name="job")
def _job(kafka: str, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka, tmp_path, n_partitions=2)
    write_config(job, tmp_path / "streamseg.toml")
    yield job
    job.close()


def write_config(job: Job, path: Path) -> None:
    lines = [f'application = "{job.names.application}"']
    for section, keys in job.config.items():
        if isinstance(keys, dict):
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    path.write_text("\n".join(lines) + "\n")


def streamseg(job: Job, *arguments: str, code: int | None = 0) -> str:
    """What a command says; `code`: its exit code, None for any."""
    found, said = ran("streamseg", *arguments, cwd=job.directory)
    assert code is None or found == code, said
    return said


@pytest.mark.exhaustive
def test_from_a_file_through_two_workers_to_tags_that_are_proved(job: Job) -> None:
    events = [e for e in stream(3_000) if e[1] is not None]
    write_lines(job.directory / "events.jsonl", events)
    assert "there is no state" in streamseg(job, "segments", code=2)
    assert f"sent {len(events):,} events" in streamseg(job, "produce", "events.jsonl")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = job.directory / "run.log"
    process = Process("streamseg", "run", "--workers", "2", cwd=job.directory, env=environment, stderr=log)
    try:
        until(lambda: sum(job.committed_or_none().values()) >= len(events), "all events are committed")
        until(lambda: len({line["worker"] for line in job.log("run")}) == 2, "both workers have said something")
        assert "age" in streamseg(job, "segments")
        assert "last event" in streamseg(job, "explain", "c7")
        assert "is Regulars now" in streamseg(job, "segments", "rename", "1", "Regulars")
        until(lambda: "Regulars" in streamseg(job, "segments"), "the workers' log has the name")
        assert "there is no segment 99" in streamseg(job, "segments", "rename", "99", "x", code=2)
        assert "another segment has the name" in streamseg(job, "segments", "rename", "0", "Regulars", code=2)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    report = json.loads(streamseg(job, "verify", "--json"))
    # Erasures make a snapshot, behind which nothing is derived again.
    assert report["records"] + sum(report["horizon"].values()) == len(events)


def test_redrive_sends_each_dead_letter_once(job: Job) -> None:
    events = stream(600)
    job.start("w0")
    job.until_working("w0")
    outside = OutsideReader(job)
    outside.start()
    job.produce(events)
    check(job, outside, events)
    outside.close()
    # Otherwise what is still broken comes back as a dead letter at once.
    assert job.kill("w0", signal.SIGTERM) == 0
    shown = streamseg(job, "redrive", "--code", "not_json")
    assert "3 dead letters would be sent back: not_json 3" in shown
    assert "sent 3 dead letters" in streamseg(job, "redrive", "--code", "not_json", "--yes")
    assert "sent 0 dead letters" in streamseg(job, "redrive", "--code", "not_json", "--yes")
    job.start("w0")
    until(lambda: sum(job.committed().values()) >= len(events) + 3, "they come back as events")
    assert "there is no code" in streamseg(job, "redrive", "--code", "nonsense", code=2)


def test_redrive_of_some_keeps_the_others_their_order_and_their_times(job: Job) -> None:
    at_ms = 1_600_000_000_000
    broken = [(b"c1", b"{%s %d" % (name, i), at_ms + i) for i, name in enumerate([b"alpha", b"beta", b"alpha", b"gamma"])]
    produce(job.servers, job.names.input, 0, broken)
    job.produced[0] += len(broken)
    job.start("w0")
    until(lambda: sum(job.committed_or_none().values()) >= len(broken), "they are dead letters")
    assert job.kill("w0", signal.SIGTERM) == 0
    assert "sent 1 dead letters" in streamseg(job, "redrive", "--contains", "beta", "--yes")
    assert "3 dead letters would be sent back" in streamseg(job, "redrive")
    assert "sent 2 dead letters" in streamseg(job, "redrive", "--contains", "alpha", "--yes")
    assert "sent 1 dead letters" in streamseg(job, "redrive", "--yes")
    assert "sent 0 dead letters" in streamseg(job, "redrive", "--yes")
    again = [(value, at) for _, _, value, at in timed_records_in(job)][len(broken) :]
    assert again == [(broken[i][1], broken[i][2]) for i in (1, 0, 2, 3)]


def test_produce_at_a_rate_from_a_table(job: Job) -> None:
    rows = [f"c{i % 7},{1_700_000_000_000 + i},{20 + i},{1000 * i},{i}" for i in range(60)]
    text = "customer_id,event_time,age,income,purchases\n" + "\n".join(rows) + "\n"
    (job.directory / "events.csv").write_text(text)
    began = time.monotonic()
    assert "sent 60 events" in streamseg(job, "produce", "events.csv", "--rate", "40")
    assert time.monotonic() - began > 59 / 40
    values = [json.loads(value or b"") for _, _, value in records_in(job)]
    assert sorted(value["purchases"] for value in values) == [float(i) for i in range(60)]


def test_a_worker_that_dies_is_started_again_and_the_others_go_on(job: Job) -> None:
    events = stream(3_000)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = job.directory / "run.log"
    process = Process("streamseg", "run", "--workers", "2", cwd=job.directory, env=environment, stderr=log)
    try:
        until(lambda: len(children(process.pid)) == 2, "two workers")
        until(lambda: bool(job.log("run")), "they work")
        outside = OutsideReader(job)
        outside.start()
        job.produce(events[:1_500])
        os.kill(children(process.pid)[0], signal.SIGKILL)
        job.produce(events[1_500:])
        check(job, outside, events)
        outside.close()
        assert "is started again" in " ".join(job.text("run").split())
        until(lambda: len(children(process.pid)) == 2, "two workers again")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_topic_that_is_not_keyed_by_customer_is_sent_on_once_whatever_dies(job: Job) -> None:
    """Killed again and again, and with a second one at the same time."""
    source = f"{job.names.application}-raw"
    create_input(job.servers, job.names._replace(input=source), 3)
    events = stream(6_000)
    portions = [events[:2_000], events[2_000:4_000], events[4_000:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def sent() -> int:
        return sum(1 for _ in records_in(job))

    for portion in portions:
        before = sent()
        for partition in range(3):
            produce(job.servers, source, partition, [(b"web", value, at) for _, value, at in portion[partition::3]])
        two = [Process("streamseg", "repartition", source, cwd=job.directory, env=environment) for _ in range(2)]
        until(lambda before=before: sent() > before, "some are sent on")  # type: ignore[misc]
        for process in two:
            process.kill()
            process.wait()
    streamseg(job, "repartition", source, "--to-end")
    there = list(records_in(job))
    assert Counter(value for _, _, value in there) == Counter(value for _, value, _ in events)
    homes: dict[bytes | None, set[int | None]] = {}
    for place, key, value in there:
        homes.setdefault(key, set()).add(place)
        customer = decoded_id(value)
        assert key == (customer.encode() if customer else b"web")
    assert {len(partitions) for key, partitions in homes.items() if key != b"web"} == {1}
    assert "sent 0 records" in streamseg(job, "repartition", source, "--to-end")
    assert "is the input itself" in streamseg(job, "repartition", job.names.input, code=2)


def test_the_end_is_where_the_share_of_others_was_sent_on_too(job: Job) -> None:
    source, name = f"{job.names.application}-raw", f"{job.names.application}-again"
    create_input(job.servers, job.names._replace(input=source), 2)
    for partition in range(2):
        produce(job.servers, source, partition, [(b"k", b"%d" % i, None) for i in range(5)])
    one = Repartition(Connection(job.servers), source, job.names.input, name, "one", lambda keys, values: keys)
    with closing(one):
        until(lambda: one.step(10) == 0 and one.at_end(), "all is sent on")
        # As if another worker had partition 1: what it sent on is what is committed.
        member = one._member
        member.ownership = member.ownership._replace(partitions=(0,))
        assert one.at_end()
        produce(job.servers, source, 1, [(b"k", b"5", None)])
        until(lambda: not one.at_end(), "the other share has not been sent on")
        until(lambda: one.step(10) == 1, "whoever gets that share sends it on")
        until(lambda: one.step(10) == 0 and one.at_end(), "it is the end")
    assert len(list(records_in(job))) == 11


def test_a_customer_is_exported_and_erased_while_a_worker_runs(job: Job) -> None:
    events = [e for e in stream(2_000) if e[1] is not None]
    person = [event("person-77", float(i), age=33.2170123, income=1017.4567, purchases=2.0) for i in range(5)]
    job.produce(events + person)
    job.start("w0")
    job.until_working("w0")
    until(job.done, "all events are committed")
    found = json.loads(streamseg(job, "export-customer", "person-77"))
    assert len(found["tags"]) >= 5
    said = streamseg(job, "erase", "person-77")
    assert "erased from the state and the model; their tag is a tombstone now" in said
    assert "min.compaction.lag.ms" in said
    assert streamseg(job, "explain", "person-77", code=2)
    assert "nothing is kept about a customer" in streamseg(job, "erase", "nobody", code=2)
    assert job.kill("w0", signal.SIGTERM) == 0
    # When the worker ended, it wrote snapshots that do not have the customer, and deleted what was before them.
    with closing(open_reader(Config.model_validate(job.config))) as reader:
        for log, partitions in ((Log.CUSTOMERS, 2), (Log.MODEL, 1), (Log.MODEL_SNAPSHOTS, 1)):
            for partition in range(partitions):
                start = first_offset(job, job.names.log(log, partition))
                kept = b"".join(record for _, record in reader.read(log, partition, start))
                assert b"person-77" not in kept
                assert struct.pack("<d", 1017.4567) not in kept
    streamseg(job, "verify")


def first_offset(job: Job, place: Any) -> int:
    client = Consumer({"bootstrap.servers": job.servers, "group.id": new_name()})
    low, _ = client.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=30)
    client.close()
    return int(low)


def records_in(job: Job) -> Iterator[tuple[int | None, bytes | None, bytes | None]]:
    """Partition, key and value of committed records of the input."""
    return ((partition, key, value) for partition, key, value, _ in timed_records_in(job))


def timed_records_in(job: Job) -> Iterator[tuple[int | None, bytes | None, bytes | None, int]]:
    """The same with their timestamps, by another client."""
    reader = Consumer({"bootstrap.servers": job.servers, "group.id": "nobody", "enable.partition.eof": True})
    places = [TopicPartition(job.names.input, partition, 0) for partition in range(job.n_partitions)]
    reader.assign(places)
    ended = 0
    while ended < len(places):
        message = reader.poll(10.0)
        assert message is not None
        error = message.error()
        if error is None:
            yield message.partition(), message.key(), message.value(), message.timestamp()[1]
        else:
            assert error.code() == KafkaError._PARTITION_EOF
            ended += 1
    reader.close()


def decoded_id(value: bytes | None) -> str | None:
    try:
        # JSON has no NaN; Python's own reader takes it, and hands its text to what is given here: int refuses it.
        found = json.loads(value or b"", parse_constant=int)["customer_id"]
    except (ValueError, TypeError, KeyError):
        return None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else None


def test_doctor_names_what_is_wrong(job: Job) -> None:
    found = streamseg(job, "doctor", "--set", "input.topic=nowhere", code=2)
    assert "there is no topic nowhere" in found
    found = streamseg(job, "doctor", "--kafka", "127.0.0.1:1", code=2)
    assert "broker" in found
    assert "the input is empty" in streamseg(job, "doctor")
    job.produce([event(f"c{i}", float(i), age=30.0, annual_income=1e4) for i in range(100)])
    found = streamseg(job, "doctor")
    assert "no   " not in found
    assert "brokers speak Kafka " in found
    assert "a sample of 100 can be read" in found
    ahead = (int(time.time()) + 1_800) * 1000
    produce(job.servers, job.names.input, 1, [(b"c1", b"{broken", ahead)])
    found = streamseg(job, "doctor", code=2)
    assert "would be dead letters: not_json" in found
    assert "ahead of this machine: set its clock" in found


def test_doctor_sees_who_works_what_hangs_and_topics_that_would_lose_state(job: Job) -> None:
    job.start("w0")
    job.until_working("w0")
    assert f"{job.names.application}:w0" in streamseg(job, "doctor")
    hanging = Producer({"bootstrap.servers": job.servers, "transactional.id": new_name("stranger")})
    hanging.init_transactions(30)
    hanging.begin_transaction()
    hanging.produce(job.names.input, b"{}", b"c1", 0)
    hanging.flush(10)
    until(lambda: "readers of" in streamseg(job, "doctor", code=None), "the transaction is old", 60)
    hanging.abort_transaction(10)
    assert job.kill("w0", signal.SIGTERM) == 0
    with discarded(admin(Connection(job.servers))) as client:
        settings = {"cleanup.policy": "compact", "retention.ms": "1000"}
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, job.names.customers, settings)])
    assert "would lose state" in streamseg(job, "doctor", code=2)


def test_other_settings_are_refused_while_the_group_works(job: Job) -> None:
    job.start("w0")
    job.until_working("w0")
    job.produce(stream(500))
    until(job.done, "all events are committed")
    refused = streamseg(job, "run", "--set", "model.segments=4", "--set", "worker.id=other", code=2)
    assert "written with other settings: model.segments" in " ".join(refused.split())
    assert job.workers["w0"].poll() is None


def test_a_password_on_the_command_line_is_refused(job: Job) -> None:
    refused = streamseg(job, "run", "--set", "kafka.password=hunter2", code=2)
    assert "hunter2" not in refused
    assert "password_file" in refused

"""Real processes on a real broker, with every fault of the table: nothing lost, nothing doubled, every tag derived again."""

from __future__ import annotations

import json
import random
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamseg.application.wiring import open_reader
from streamseg.config import Config
from streamseg.engine.ports import Log, Topic
from streamseg.engine.verify import verified
from streamseg.transports.kafka.client import (
    ConfigResource,
    ConfigResourceType,
    Connection,
    TopicPartition,
    admin,
    discarded,
    kafka_errors,
    producer,
)
from streamseg.transports.kafka.topics import create_topic, partitions_of, prepare
from tests.broker import Broker, free_port, needed, new_name
from tests.harness import FixedClock
from tests.integration.kafka_jobs import Job, OutsideReader, check, expected, stream
from tests.integration.proxy import Proxy
from tests.stores import create_input
from tests.waiting import until

N_KILLS = 30
_LAG = re.compile(r"streamseg_consumer_lag_seconds\{")
# Longer than records may be on their way, and than a transaction may be open.
_DARK_S = 12.0


@pytest.fixture(name="job")
def _job(kafka: str, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka, tmp_path)
    yield job
    job.close()


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def watched(job: Job) -> OutsideReader:
    """A worker has made the topics; from now on somebody reads them."""
    outside = OutsideReader(job)
    outside.start()
    return outside


@pytest.mark.exhaustive
def test_thirty_kills_of_three_workers_lose_and_double_nothing(job: Job) -> None:
    rng = random.Random(7)
    events = stream(12_000, seed=1)
    for worker in ("w0", "w1", "w2"):
        job.start(worker)
    job.until_working("w0")
    outside = watched(job)
    portion = len(events) // N_KILLS + 1
    for i in range(N_KILLS):
        job.produce(events[i * portion : (i + 1) * portion])
        worker = f"w{rng.randrange(3)}"
        deadline = time.monotonic() + rng.random() * 1.5
        until(lambda at=deadline: time.monotonic() >= at, "a moment drawn at random")  # type: ignore[misc]
        assert job.kill(worker) == -signal.SIGKILL
        job.start(worker)
    report = check(job, outside, events)
    outside.close()
    assert report.tags > 0


def test_sigterm_ends_a_worker_with_0_and_the_others_go_on_at_once(job: Job) -> None:
    events = stream(4_000)
    job.start("w0")
    job.start("w1")
    job.until_working("w0")
    job.until_working("w1")
    outside = watched(job)
    job.produce(events[:2_000])
    moves = len(job.events("w1", "partitions_moved"))
    assert job.kill("w0", signal.SIGTERM) == 0
    assert until(lambda: len(job.events("w1", "partitions_moved")) > moves, "w1 takes over") < 6.0
    job.produce(events[2_000:])
    check(job, outside, events)
    outside.close()


def test_a_zombie_drops_its_state_and_joins_again(job: Job) -> None:
    events = stream(4_000)
    job.start("w0")
    job.start("w1")
    job.until_working("w0")
    job.until_working("w1")
    outside = watched(job)
    job.produce(events[:1_000])
    moves = len(job.events("w1", "partitions_moved"))
    job.workers["w0"].send_signal(signal.SIGSTOP)
    job.produce(events[1_000:2_500])
    until(lambda: len(job.events("w1", "partitions_moved")) > moves, "w1 takes over")
    until(job.done, "w1 does the work of both")
    job.workers["w0"].send_signal(signal.SIGCONT)
    again = len(job.events("w0", "partitions_moved"))
    job.produce(events[2_500:])
    until(lambda: len(job.events("w0", "partitions_moved")) > again, "w0 is back")
    check(job, outside, events)
    outside.close()


def test_a_second_instance_of_a_worker_ends_the_first(job: Job) -> None:
    events = stream(2_000)
    first = job.start("w0")
    job.until_working("w0")
    outside = watched(job)
    job.produce(events[:1_000])
    job.start("w0", log="second")
    assert first.wait(timeout=30) == 6
    assert "same worker.id" in job.text("w0")
    job.produce(events[1_000:])
    check(job, outside, events)
    outside.close()


def test_a_second_instance_ends_the_first_even_where_there_is_nothing_to_do(job: Job) -> None:
    """The client only logs that it was thrown out; with nothing to commit nobody else would say so."""
    first = job.start("w0")
    job.until_working("w0")
    outside = watched(job)
    job.start("w0", log="second")
    assert first.wait(timeout=40) == 6
    assert "same worker.id" in job.text("w0")
    events = stream(500)
    job.produce(events)
    check(job, outside, events)
    outside.close()
    assert job.workers["w0"].poll() is None


def test_what_a_dead_worker_left_open_is_ended_long_before_the_broker_does(job: Job) -> None:
    """It had sent records, and no offsets yet: only readers of its logs and of its output are held up."""
    job.start("w0")
    job.until_working("w0")
    outside = watched(job)
    events = stream(1_000)
    job.produce(events[:500])
    check(job, outside, events[:500])
    dead = producer(Connection(job.servers), f"{job.names.application}:dead")
    dead.init_transactions()
    dead.begin_transaction()
    for place in (job.names.log(Log.MODEL, 0), TopicPartition(job.names.assignments, 0)):
        dead.send(place.topic, b"never seen", b"x", partition=place.partition).get(timeout=10)
    began = time.monotonic()
    job.produce(events[500:])
    check(job, outside, events)
    assert time.monotonic() - began < 8.0
    with pytest.raises(kafka_errors.KafkaError):
        dead.commit_transaction()
    dead.close(timeout=1)
    outside.close()


def test_an_input_that_was_made_anew_stops_the_job_with_what_to_do(job: Job) -> None:
    job.start("w0")
    job.until_working("w0")
    job.produce(stream(500))
    until(job.done, "all events are committed")
    assert job.kill("w0", signal.SIGTERM) == 0
    with discarded(admin(Connection(job.servers))) as client:
        client.delete_topics([job.names.input])
        until(lambda: job.names.input not in partitions_of(client, [job.names.input]), "it is deleted")
    create_input(job.servers, job.names, job.n_partitions)
    assert job.start("w0", log="again").wait(timeout=60) == 2
    assert "is another one than before" in " ".join(job.text("again").split())


def test_outputs_with_too_few_partitions_are_refused_at_the_start(job: Job) -> None:
    create_input(job.servers, job.names._replace(input=job.names.assignments), 1)
    assert job.start("w0").wait(timeout=60) == 2
    assert "it needs 4" in " ".join(job.text("w0").split())


def test_a_new_application_over_another_ones_outputs_is_refused_and_leaves_nothing(job: Job, tmp_path: Path) -> None:
    job.start("w0")
    job.until_working("w0")
    job.produce(stream(500))
    until(job.done, "all events are committed")
    assert job.kill("w0", signal.SIGTERM) == 0
    job.config["application"] = new_name("other")
    assert job.start("w0", log="other").wait(timeout=60) == 2
    said = " ".join(job.text("other").split())
    assert "of another application" in said
    assert "output.catalog_topic" in said
    with discarded(admin(Connection(job.servers))) as client:
        assert partitions_of(client, [f"{job.config['application']}-model"]) == {}


def test_internal_topics_that_would_lose_state_are_refused_at_the_start(job: Job) -> None:
    with discarded(admin(Connection(job.servers))) as client:
        settings = {"cleanup.policy": "delete", "retention.ms": "604800000"}
        create_topic(client, job.names.customers, job.n_partitions, settings)
    assert job.start("w0").wait(timeout=60) == 2
    assert "would lose state" in " ".join(job.text("w0").split())
    assert "retention.ms=-1" in job.text("w0")


def test_topics_that_are_not_ours_to_create_are_named(kafka: str, tmp_path: Path) -> None:
    job = Job(kafka, tmp_path, n_partitions=1, kafka={"create_topics": False})
    try:
        assert job.start("w0").wait(timeout=60) == 2
        assert f"topics are missing: {job.names.customers}" in " ".join(job.text("w0").split())
        with discarded(admin(Connection(kafka))) as client:
            prepare(client, job.names, create=True)
        job.start("w0", log="again")
        job.until_working("again")
    finally:
        job.close()


def test_at_least_once_loses_nothing_whatever_dies(kafka: str, tmp_path: Path) -> None:
    """Tags may come again after a kill; the state, and what it learned, is still there once."""
    job = Job(kafka, tmp_path, n_partitions=2, output={"delivery": "at-least-once"})
    events = stream(4_000)
    try:
        for worker in ("w0", "w1"):
            job.start(worker)
        job.until_working("w0")
        outside = watched(job)
        for i in range(8):
            job.produce(events[i * 500 : (i + 1) * 500])
            job.kill(f"w{i % 2}")
            job.start(f"w{i % 2}")
        job.produce(events[4_000:])
        until(job.done, "all events are committed")
        wanted = expected(job, events)
        until(lambda: wanted <= outside.seen.keys(), "the outside reader has seen everything")
        outside.close()
        assert outside.seen.keys() == wanted
        report = job.verify()
        assert report.records + sum(report.horizon.values()) == len(events)
        assert any("went to a stream" in text for text in report.unread)
        assert not report.lost
    finally:
        job.close()


def test_a_record_that_is_too_large_for_the_dead_letters_goes_there_by_reference(kafka: str, tmp_path: Path) -> None:
    job = Job(kafka, tmp_path, n_partitions=1)
    limit_records(kafka, job.names.input, 4_000_000)
    with discarded(producer(Connection(kafka), None, max_request_size=4_000_000)) as large:
        large.send(job.names.input, b'{"customer_id": "c1", "note": "' + b"x" * 3_000_000 + b'"}', b"c1").get(timeout=30)
    job.produced[0] += 1
    events = stream(500)
    try:
        job.start("w0")
        job.until_working("w0")
        job.produce(events)
        until(job.done, "all events are committed")
        report = job.verify()
        assert report.unread == []
        (letter,) = [one for one in dead_letters(job) if one["offset"] == 0]
        assert (letter["code"], letter["key"], letter["value"]) == ("too_large", None, None)
    finally:
        job.close()


def limit_records(servers: str, topic: str, n_bytes: int) -> None:
    with discarded(admin(Connection(servers))) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(n_bytes)})])


def dead_letters(job: Job) -> list[dict[str, Any]]:
    reader = open_reader(Config.model_validate(job.config))
    try:
        published = reader.published(Topic.DEAD_LETTERS, 0, 0)
        assert published is not None
        return [json.loads(value) for value in published.values if value is not None]
    finally:
        reader.close()


def test_an_output_that_is_too_large_for_its_topic_stops_the_job_with_what_to_do(kafka: str, tmp_path: Path) -> None:
    job = Job(kafka, tmp_path, n_partitions=1)
    try:
        job.start("w0")
        job.until_working("w0")
        limit_records(kafka, job.names.assignments, 300)
        job.produce(stream(500))
        assert job.workers["w0"].wait(timeout=60) == 2
        assert "set max.message.bytes of the topic" in " ".join(job.text("w0").split())
        assert job.committed() == {}
    finally:
        job.close()


def test_partitions_added_to_the_input_stop_every_worker_with_what_to_do(job: Job) -> None:
    for worker in ("w0", "w1"):
        job.start(worker)
        job.until_working(worker)
    job.produce(stream(500))
    until(job.done, "all events are committed")
    client = admin(Connection(job.servers))
    client.create_partitions({job.names.input: job.n_partitions + 1})
    client.close()
    for worker in ("w0", "w1"):
        assert job.workers[worker].wait(timeout=60) == 2
        assert "partitions were added" in " ".join(job.text(worker).split())
    assert job.start("w0", log="again").wait(timeout=60) == 2
    assert "start a new application" in " ".join(job.text("again").split())


def test_input_that_was_deleted_unread_stops_the_job_or_is_passed_as_the_settings_say(kafka: str, tmp_path: Path) -> None:
    job = Job(kafka, tmp_path, n_partitions=1)
    events = stream(1_500)
    try:
        job.start("w0")
        job.until_working("w0")
        job.produce(events[:500])
        until(job.done, "the first events are committed")
        job.kill("w0", signal.SIGTERM)
        job.produce(events[500:1_000])
        client = admin(Connection(kafka))
        client.delete_records({TopicPartition(job.names.input, 0): 900})
        client.close()
        assert job.start("w0", log="stopped").wait(timeout=60) == 2
        assert "lost records that were not read" in " ".join(job.text("stopped").split())
        job.config["input"]["lost"] = "skip"
        job.start("w0", log="skipping")
        job.produce(events[1_000:])
        until(job.done, "the rest is committed")
    finally:
        job.close()


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[tuple[Broker, Proxy]]:
    """A broker of one's own, behind a proxy that can be cut."""
    needed()
    port = free_port()
    broker = Broker(tmp_path, advertised=port)
    proxy = Proxy(port, broker.ports["PLAINTEXT"])
    broker.start()
    yield broker, proxy
    proxy.close()
    broker.stop()


@pytest.mark.exhaustive
def test_a_broker_restart_and_broken_networks_are_survived(own: tuple[Broker, Proxy], tmp_path: Path) -> None:
    broker, proxy = own
    job = Job(proxy.address, tmp_path, n_partitions=2)
    port = job.config["metrics"]["port"] = free_port()
    events = stream(6_000)
    try:
        job.start("w0")
        job.until_working("w0")
        outside = watched(job)
        job.produce(events[:1_500])
        broker.stop(signal.SIGKILL)
        broker.start()
        job.produce(events[1_500:3_000])
        until(job.done, "the job goes on after the broker's restart")
        job.produce(events[3_000:4_000])
        proxy.cut()
        until(job.done, "the job goes on after its connections were cut")
        job.produce(events[4_000:5_000])
        proxy.swallow(True)
        retries, dark = len(job.events("w0", "retrying")), time.monotonic() + _DARK_S
        until(lambda: len(job.events("w0", "retrying")) > retries, "the worker notices the black hole")
        assert page(port, "/readyz")[0] == 503, "a worker that is cut off is not ready"
        assert page(port, "/livez")[0] == 200
        told = page(port, "/metrics")[1]
        for partition in range(2):
            assert f'streamseg_task_state{{partition="{partition}",state="suspended"}} 1.0' in told
        until(lambda: time.monotonic() > dark, "the delivery time-out has passed")
        lags = [float(line.split()[-1]) for line in page(port, "/metrics")[1].splitlines() if _LAG.match(line)]
        assert len(lags) == 2
        assert min(lags) > _DARK_S / 2, "nobody knows what has come since the last poll"
        proxy.heal()
        until(lambda: page(port, "/readyz")[0] == 200, "the worker is ready again")
        job.produce(events[5_000:])
        check(job, outside, events)
        outside.close()
        loaded = Config.model_validate(job.config)
        reader = open_reader(loaded)
        with ThreadPoolExecutor() as pool:
            broker.stop(signal.SIGKILL)
            verifying = pool.submit(partial(verified, reader, loaded.job_settings(), FixedClock()))
            until(lambda: verifying.running(), "somebody verifies")
            broker.start()
            assert verifying.result(60).records == len(events)
        reader.close()
    finally:
        job.close()

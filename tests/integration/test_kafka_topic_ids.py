"""Another topic under the same name is not read on in: offsets of the old one mean other records there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from streamseg.transports.kafka.client import Connection, admin, discarded
from streamseg.transports.kafka.topics import Names, partitions_of
from tests.harness import shoppers
from tests.integration.kafka_jobs import Job
from tests.stores import create_input
from tests.waiting import until

N_BEFORE, N_AFTER = 500, 900


@pytest.fixture(name="job")
def _job(kafka: str, tmp_path: Path) -> Iterator[Job]:
    found = Job(kafka, tmp_path, 1)
    yield found
    found.close()


def create_again(job: Job, topic: str, create: Callable[[], None]) -> None:
    with discarded(admin(Connection(job.servers))) as client:
        client.delete_topics([topic])
        until(lambda: topic not in partitions_of(client, [topic]), f"{topic} is gone")
    create()


def published(job: Job) -> int:
    client = Consumer({"bootstrap.servers": job.servers, "group.id": "counts", "isolation.level": "read_committed"})
    _, high = client.get_watermark_offsets(TopicPartition(job.names.assignments, 0), timeout=30)
    client.close()
    return int(high)


@pytest.mark.parametrize("alive", [True, False])
def test_an_input_that_was_created_again_is_refused(job: Job, alive: bool) -> None:
    """Also by a worker that lives, which would go on at offset 500 of the new topic, and leave out the first 500."""
    job.produce(shoppers(N_BEFORE))
    worker = job.start("a")
    until(lambda: job.committed_or_none() == {0: N_BEFORE}, "all is committed")
    before = published(job)
    if not alive:
        job.kill("a")
    create_again(job, job.names.input, lambda: create_input(job.servers, job.names, 1))
    job.produced = [0]
    job.produce(shoppers(N_AFTER, seed=1))
    if not alive:
        worker = job.start("a")
    assert worker.wait(timeout=60) == 2
    assert f"the topic {job.names.input} is another one than before" in job.text("a")
    assert "begin a new application on it" in job.text("a")
    assert published(job) == before, "no tag came from the new topic"
    assert job.start("a").wait(timeout=60) == 2, "nor does a restart go on"


def test_a_log_that_was_created_again_is_refused(job: Job) -> None:
    job.produce(shoppers(N_BEFORE))
    worker = job.start("a")
    until(lambda: job.committed_or_none() == {0: N_BEFORE}, "all is committed")
    names: Names = job.names
    n_partitions, settings = names.ours(1)[names.customers]
    create_again(job, names.customers, lambda: _create(job, names.customers, n_partitions, settings))
    assert worker.wait(timeout=60) == 2
    assert f"the topic {names.customers} is another one than before" in job.text("a")
    assert job.start("a").wait(timeout=60) == 2


def _create(job: Job, topic: str, n_partitions: int, settings: dict[str, str]) -> None:
    with discarded(admin(Connection(job.servers))) as client:
        client.create_topics({topic: {"num_partitions": n_partitions, "configs": settings}}, wait_for_metadata=True)

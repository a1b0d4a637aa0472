"""Three brokers that keep three copies, of which two have to have a record: brokers and workers die, and nothing is lost."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.transports.kafka.client import Connection, admin, discarded
from tests.broker import Cluster, needed
from tests.integration.kafka_jobs import Job, OutsideReader, check, stream
from tests.waiting import until

pytestmark = [pytest.mark.exhaustive, pytest.mark.xdist_group("cluster")]
_ROUNDS = 30


@pytest.fixture(scope="module", name="cluster")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    needed()
    found = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield found
    found.stop()


@pytest.fixture(name="job")
def _job(cluster: Cluster, tmp_path: Path) -> Iterator[Job]:
    job = Job(cluster.address, tmp_path, kafka={"replication_factor": 3})
    yield job
    job.close()


def leader_of(job: Job, partition: int) -> int:
    """The place of a broker."""
    with discarded(admin(Connection(job.servers))) as client:
        (described,) = client.describe_topics([job.names.input])
    (found,) = [one for one in described["partitions"] if one["partition_index"] == partition]
    return int(found["leader_id"]) - 1


def await_moment(rng: random.Random, most_s: float) -> None:
    moment = time.monotonic() + rng.random() * most_s
    until(lambda: time.monotonic() >= moment, "a moment drawn at random")


def restarted(job: Job) -> int:
    """As a supervisor does it: a worker that found no broker when it began has ended with 5."""
    ended = [worker for worker, process in job.workers.items() if process.poll() is not None]
    for worker in ended:
        assert job.workers[worker].poll() == 5, job.text(worker)
        job.start(worker)
    return len(ended)


def test_brokers_and_workers_that_die_lose_and_double_nothing(cluster: Cluster, job: Job) -> None:
    rng = random.Random(11)
    events = stream(12_000, seed=3)
    workers = ("w0", "w1", "w2")
    for worker in workers:
        job.start(worker)
    job.until_working("w0")
    outside = OutsideReader(job)
    outside.start()
    portion = len(events) // _ROUNDS + 1
    done: Counter[str] = Counter()
    for i in range(_ROUNDS):
        job.produce(events[i * portion : (i + 1) * portion])
        done["restarts"] += restarted(job)
        await_moment(rng, 1.5)
        how = ("a worker", "a pause", "the leader", "two brokers", "all brokers")[i % 5]
        worker = rng.choice(workers)
        if how == "a worker":
            job.kill(worker)
            job.start(worker)
        elif how == "a pause":
            job.workers[worker].send_signal(signal.SIGSTOP)
            # Longer than its session, so that others take over.
            await_moment(rng, 9.0)
            job.workers[worker].send_signal(signal.SIGCONT)
        else:
            leader = leader_of(job, rng.randrange(4))
            others = [place for place in range(3) if place != leader]
            places = {"the leader": [leader], "two brokers": [leader, rng.choice(others)], "all brokers": [0, 1, 2]}[how]
            cluster.kill(places)
            done["brokers killed"] += len(places)
            await_moment(rng, 3.0)
            if rng.random() < 0.5:
                job.kill(worker)
                job.start(worker)
                done["a worker"] += 1
            cluster.start(places)
        done[how] += 1
    done["restarts"] += restarted(job)
    report = check(job, outside, events)
    outside.close()
    print(f"{dict(done)}: {len(events):,} records, {report.tags:,} tags derived again, 0 lost, 0 doubled")
    assert report.tags > 0
    assert done["brokers killed"] >= 6 * (1 + 2 + 3)

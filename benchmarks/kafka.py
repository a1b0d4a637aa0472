"""The job on Kafka against a bare pass-through, in one run on one broker.

    python -m benchmarks.kafka [BOOTSTRAP_SERVERS]

The pass-through is what anyone would write with the same client: poll, send each record on unchanged, commit in transactions
of 5,000 with the offsets. Both read the same input topic and write to topics of the same kind; they are timed in turn, and
the ratio of the medians is printed: the machine is shared, so only ratios mean anything. Without servers a broker is
started as for the tests.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamseg.config import Config
from streamseg.model.start import start_from_centers
from streamseg.processing.clock import SystemClock
from streamseg.processing.observe import Observation
from streamseg.processing.transport import CommitPlan, CommitResult
from streamseg.runtime.loop import Loop
from streamseg.transports.kafka.client import (
    Connection,
    ConsumerRebalanceListener,
    OffsetAndMetadata,
    TopicPartition,
    group_consumer,
    producer,
)
from streamseg.transports.kafka.topics import Names
from streamseg.transports.kafka.transport import KafkaTransport
from tests.broker import Broker, new_name
from tests.stores import create_input, produce

N_EVENTS = 100_000
N_CUSTOMERS = 10_000
PARTITIONS = 4
BATCH = 5_000
REPEATS = 3


class Quiet:
    def observe(self, event: Observation) -> None:
        """Nobody looks."""


class Timed(KafkaTransport):
    """Counts what time goes to commits, and to the model's log."""

    committing_s = 0.0
    commits = 0

    def commit(self, plan: CommitPlan) -> CommitResult:
        began = time.perf_counter()
        try:
            return super().commit(plan)
        finally:
            self.committing_s += time.perf_counter() - began
            self.commits += 1


def fill(servers: str, names: Names) -> None:
    rng = np.random.default_rng(0)
    create_input(servers, names, PARTITIONS)
    for partition in range(PARTITIONS):
        rows = []
        for i in range(N_EVENTS // PARTITIONS):
            customer = int(rng.integers(N_CUSTOMERS // PARTITIONS)) * PARTITIONS + partition
            g = customer % 5
            event = {
                "customer_id": f"c{customer}",
                "event_time": 1_700_000_000_000 + i * 1000,
                "age": 20.0 + 10 * g + rng.normal(),
                "income": 1000.0 * g + 300 * rng.normal(),
                "purchases": g + rng.random(),
            }
            rows.append((f"c{customer}".encode(), msgspec.json.encode(event), None))
        produce(servers, names.input, partition, rows)


def pass_through(connection: Connection, names: Names) -> float:
    """Seconds for all events."""
    group = new_name("bare")
    members = group_consumer(connection, group, None)

    class Begin(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_assigned(self, assigned: Any) -> None:
            for place in assigned:
                members.seek(place, 0)

        def on_partitions_revoked(self, revoked: Any) -> None:
            """Nothing is open."""

    members.subscribe([names.input], listener=Begin())
    client = producer(connection, f"{group}-0")
    client.init_transactions()
    while not members.assignment():
        members.poll(timeout_ms=100, max_records=1)
    for place in members.assignment():
        members.seek(place, 0)
    began, done = time.perf_counter(), 0
    while done < N_EVENTS:
        count, offsets, futures = 0, {}, []
        client.begin_transaction()
        while count < BATCH:
            found = members.poll(timeout_ms=0 if count else 500, max_records=BATCH - count)
            if not found:
                break
            for place, records in found.items():
                for record in records:
                    futures.append(client.send(names.assignments, record.value, record.key, partition=place.partition))
                offsets[TopicPartition(place.topic, place.partition)] = OffsetAndMetadata(records[-1].offset + 1, "", -1)
                count += len(records)
        client.flush()
        assert all(future.succeeded() for future in futures)
        client.send_offsets_to_transaction(offsets, members.group_metadata())
        client.commit_transaction()
        done += count
    seconds = time.perf_counter() - began
    client.close(timeout=2)
    members.close()
    return seconds


def job(connection: Connection, names: Names, emit: str) -> tuple[float, float]:
    """Seconds for all events, and the share of them spent in commits."""
    own = names._replace(application=new_name("bench"))
    config = Config.model_validate(
        {
            "application": own.application,
            "input": {"topic": names.input},
            "output": {"emit": emit},
            "model": {"segments": 5},
        }
    )
    settings = config.job_settings()
    centers = {i: {"age": 20.0 + 10 * i, "income": 1000.0 * i, "purchases": i + 0.5} for i in range(5)}
    transport = Timed(connection, own, "w0")
    loop = Loop(
        transport,
        settings,
        SystemClock(),
        Quiet(),
        threading.Event(),
        batch_records=BATCH,
        warm_start=start_from_centers(settings.model, centers),
    )
    while not loop.job.tasks:
        loop.step()
    transport.committing_s = 0.0
    began = time.perf_counter()
    while sum(task.mark.next for task in loop.job.tasks.values()) < N_EVENTS:
        loop.step()
    seconds = time.perf_counter() - began
    transport.close()
    return seconds, transport.committing_s / seconds


def compare(name: str, ours: Callable[[], tuple[float, float]], theirs: Callable[[], float]) -> None:
    a, b, shares = [], [], []
    for _ in range(REPEATS):
        seconds, share = ours()
        a.append(seconds)
        shares.append(share)
        b.append(theirs())
    ratio = statistics.median(b) / statistics.median(a)
    rates = N_EVENTS / statistics.median(a), N_EVENTS / statistics.median(b)
    share = statistics.median(shares)
    print(f"{name}: {rates[0]:,.0f}/s, pass-through {rates[1]:,.0f}/s, ratio {ratio:.2f}; {share:.0%} of it in commits")


def main() -> None:
    broker = None if len(sys.argv) > 1 else Broker(Path(tempfile.mkdtemp())).start()
    servers = sys.argv[1] if broker is None else broker.address
    try:
        connection = Connection(servers)
        names = Names("", new_name("in"), new_name("out"), new_name("segments"), new_name("dead"))
        fill(servers, names)
        for emit in ("every", "changes"):
            compare(f"emit = {emit}", partial(job, connection, names, emit), partial(pass_through, connection, names))
    finally:
        if broker is not None:
            broker.stop()


if __name__ == "__main__":
    main()

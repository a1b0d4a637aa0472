"""Streams in topics, the job and a bare pass-through over them, in one process: for `benchmarks.kafka`."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Producer

from streamseg.application.demo_data import CONFIG_FILE, EVENTS_FILE, write_demo
from streamseg.config import Config, load
from streamseg.core.model.initialization import start_from_centers
from streamseg.engine.clock import SystemClock
from streamseg.engine.events import Observation
from streamseg.engine.ports import CommitPlan, CommitResult, Log
from streamseg.runtime.loop import Loop
from streamseg.transports.kafka.client import (
    Assignor,
    Connection,
    ConsumerRebalanceListener,
    KafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
    group_consumer,
    producer,
)
from streamseg.transports.kafka.topics import Names
from streamseg.transports.kafka.transport import KafkaTransport
from tests.broker import new_name
from tests.harness import partition_of
from tests.stores import create_input

PARTITIONS = 4
BATCH = 5_000
REPEATS = 3
SESSION_TIMEOUT_S = 6.0
# What a worker may wait for in one look at the model log without it being the wait for its own delta.
_LOOK_S = 0.002


class Quiet:
    def observe(self, event: Observation) -> None:
        """Nobody looks."""


class Timed(KafkaTransport):
    """Says where the time went."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begin()

    def begin(self) -> None:
        self.began, self.committing_s, self.own_s, self.tailing_s = time.perf_counter(), 0.0, 0.0, 0.0

    def commit(self, plan: CommitPlan) -> CommitResult:
        began = time.perf_counter()
        try:
            return super().commit(plan)
        finally:
            self.committing_s += time.perf_counter() - began

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        began = time.perf_counter()
        found = list(super().read(log, partition, start, wait_s))
        spent = time.perf_counter() - began
        if wait_s > _LOOK_S:
            self.own_s += spent
        else:
            self.tailing_s += spent
        yield from found

    def shares(self) -> dict[str, float]:
        total = time.perf_counter() - self.began
        return {
            "seconds": total,
            "commits": self.committing_s / total,
            "own delta": self.own_s / total,
            "model log": self.tailing_s / total,
        }


class Stream(NamedTuple):
    """Events in an input topic, and the settings that fit them."""

    names: Names
    n_events: int
    config: dict[str, Any]
    centers: Mapping[int, Mapping[str, float]] | None = None


def event(customer: int, at_ms: int, rng: np.random.Generator) -> bytes:
    g = customer % 5
    return msgspec.json.encode(
        {
            "customer_id": f"c{customer}",
            "event_time": at_ms,
            "age": 20.0 + 10 * g + rng.normal(),
            "income": 1000.0 * g + 300 * rng.normal(),
            "purchases": g + rng.random(),
        }
    )


CENTERS = {i: {"age": 20.0 + 10 * i, "income": 1000.0 * i, "purchases": i + 0.5} for i in range(5)}


def fill(servers: str, topic: str, customers: Iterator[int], begin_ms: int = 1_700_000_000_000) -> int:
    """Events a second apart of these customers, each on its partition. Returns how many."""
    rng = np.random.default_rng(0)
    client = Producer({"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000})
    n = 0
    for customer in customers:
        key = b"c%d" % customer
        client.produce(topic, event(customer, begin_ms + n * 1000, rng), key, customer % PARTITIONS)
        n += 1
        if n % 100_000 == 0:
            client.flush()
    client.flush()
    return n


def shoppers(servers: str, n_events: int, n_customers: int) -> Stream:
    names = new_names()
    create_input(servers, names, PARTITIONS)
    fill(servers, names.input, iter(np.random.default_rng(1).integers(0, n_customers, n_events).tolist()))
    return Stream(names, n_events, {"model": {"segments": 5}}, CENTERS)


def baskets(servers: str) -> Stream:
    """A year of real shopping baskets."""
    names = new_names()
    create_input(servers, names, PARTITIONS)
    client = Producer({"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000})
    with tempfile.TemporaryDirectory() as name:
        write_demo(Path(name))
        lines = (Path(name) / EVENTS_FILE).read_bytes().splitlines()
        config = load(Path(name) / CONFIG_FILE, {}, {}).config.model_dump(mode="json", include={"features", "model"})
    for line in lines:
        key = str(json.loads(line)["customer_id"]).encode()
        client.produce(names.input, line, key, partition_of((key, line, None), PARTITIONS))
    client.flush()
    return Stream(names, len(lines), config)


def new_names() -> Names:
    return Names("", new_name("in"), new_name("out"), new_name("segments"), new_name("dead"))


def from_the_beginning(connection: Connection, topic: str, group: str) -> KafkaConsumer:
    """A member of a group that owns all partitions."""
    members = group_consumer(connection, group, None, Assignor())

    class Begin(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_assigned(self, assigned: Any) -> None:
            for place in assigned:
                members.seek(place, 0)

        def on_partitions_revoked(self, revoked: Any) -> None:
            """Nothing is open."""

    members.subscribe([topic], listener=Begin())
    while not members.assignment():
        members.poll(timeout_ms=100, max_records=1)
    for place in members.assignment():
        members.seek(place, 0)
    return members


def pass_through(connection: Connection, stream: Names, n_events: float) -> float:
    """Seconds for so many events."""
    group = new_name("bare")
    members = from_the_beginning(connection, stream.input, group)
    client = producer(connection, f"{group}-0")
    client.init_transactions()
    began, done = time.perf_counter(), 0
    while done < n_events:
        count, offsets, futures = 0, {}, []
        while count < BATCH:
            found = members.poll(timeout_ms=0 if count else 500, max_records=BATCH - count)
            if not found:
                break
            if not count:
                client.begin_transaction()
            for place, records in found.items():
                for record in records:
                    futures.append(client.send(stream.assignments, record.value, record.key, partition=place.partition))
                offsets[TopicPartition(place.topic, place.partition)] = OffsetAndMetadata(records[-1].offset + 1, "", -1)
                count += len(records)
        if not count:
            continue
        client.flush()
        assert all(future.succeeded() for future in futures)
        client.send_offsets_to_transaction(offsets, members.group_metadata())
        client.commit_transaction()
        done += count
    seconds = time.perf_counter() - began
    client.close(timeout=2)
    members.close()
    return seconds


def job(connection: Connection, stream: Stream, emit: str) -> dict[str, float]:
    """Seconds for all events, and what share of them went where."""
    # An application of its own, with outputs of its own, over the same input.
    own = new_names()._replace(application=new_name("bench"), input=stream.names.input)
    settings = Config.model_validate(
        stream.config | {"application": own.application, "input": {"topic": own.input}, "output": {"emit": emit}}
    ).job_settings()
    transport = Timed(connection, own, "w0")
    start = start_from_centers(settings.model, stream.centers) if stream.centers else None
    loop = Loop(transport, settings, SystemClock(), Quiet(), threading.Event(), batch_records=BATCH, warm_start=start)
    while not loop.job.tasks:
        loop.step()
    transport.begin()
    while sum(task.mark.next for task in loop.job.tasks.values()) < stream.n_events:
        loop.step()
    shares = transport.shares()
    transport.close()
    return shares


def compare(name: str, n_events: int, ours: Callable[[], dict[str, float]], theirs: Callable[[], float]) -> float:
    """Prints the ratio of the medians. Returns the job's rate."""
    a, b, seen = [], [], []
    for _ in range(REPEATS):
        shares = ours()
        a.append(shares.pop("seconds"))
        seen.append(shares)
        b.append(theirs())
    ratio = statistics.median(b) / statistics.median(a)
    ours_s, theirs_s = n_events / statistics.median(a), n_events / statistics.median(b)
    said = ", ".join(f"{key} {statistics.median(one[key] for one in seen):.1%}" for key in seen[0])
    print(f"{name}: {ours_s:,.0f}/s, pass-through {theirs_s:,.0f}/s, ratio {ratio:.2f}; of the loop: {said}", flush=True)
    return ours_s


def rates(servers: str) -> None:
    connection = Connection(servers)
    for name, stream, emit in (("emit = every", shoppers(servers, 100_000, 10_000), "every"),
                               ("emit = changes, baskets", baskets(servers), "changes")):  # fmt: skip
        bare = partial(pass_through, connection, stream.names._replace(assignments=bare_output(servers)), stream.n_events)
        compare(name, stream.n_events, partial(job, connection, stream, emit), bare)


def bare_output(servers: str) -> str:
    names = new_names()
    create_input(servers, names, PARTITIONS)
    return names.input

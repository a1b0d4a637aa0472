"""The job on Kafka against a bare pass-through, in one run on one broker.

    python -m benchmarks.kafka [--servers SERVERS] [rates] [latency] [restart] [workers] [memory]

The pass-through is what anyone would write with the same client: poll, send each record on unchanged, commit in transactions
of 5,000 with the offsets. Both read the same input topic and write to topics of the same kind; they are timed in turn, and
the ratio of the medians is printed: the machine is shared, so only ratios mean anything. Without servers a broker is
started as for the tests. Without parts all but `memory` run, which takes ten million events and about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from streamseg.app import open_reader
from streamseg.config import Config, load
from streamseg.demo_data import CONFIG_FILE, EVENTS_FILE, write_demo
from streamseg.model.start import start_from_centers
from streamseg.processing.clock import SystemClock
from streamseg.processing.logs import BatchRecord, decode_model_record
from streamseg.processing.observe import Observation
from streamseg.processing.restore import model_entries
from streamseg.processing.transport import CommitPlan, CommitResult, Log
from streamseg.runtime.loop import Loop
from streamseg.transports.kafka.client import (
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
from tests.broker import Broker, new_name, threading_pause
from tests.harness import partition_of
from tests.integration.kafka_jobs import ROOT, Job, until
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
    members = group_consumer(connection, group, None)

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
    own = stream.names._replace(application=new_name("bench"))
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


# -- Real processes -------------------------------------------------------------------------------------------------------


def worker_job(servers: str, directory: str, warm_up: int = 1_000) -> Job:
    return Job(
        servers, Path(directory), PARTITIONS, input={"batch_records": BATCH}, model={"segments": 5, "warm_up": warm_up}
    )


def outside(servers: str, topic: str) -> Consumer:
    """Of committed records that come from now on."""
    reader = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": new_name("outside"),
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    places = [Place(topic, partition) for partition in range(PARTITIONS)]
    reader.assign([Place(topic, p.partition, reader.get_watermark_offsets(p, timeout=30)[1]) for p in places])
    return reader


def latencies(servers: str, source: str, output: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from event time to being readable, at a rate, without the first quarter."""
    reader, rng = outside(servers, output), np.random.default_rng(2)
    found: list[tuple[float, float]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for message in reader.consume(1000, 0.05):
                now_ms = time.time() * 1000
                value = message.value()
                at = json.loads(value)["event_time"] if message.error() is None and value else None
                if at is not None:
                    at_ms = at if isinstance(at, int) else datetime.fromisoformat(at).timestamp() * 1000
                    found.append((at_ms, now_ms - at_ms))

    thread = threading.Thread(target=read)
    thread.start()
    client = Producer({"bootstrap.servers": servers, "linger.ms": 1})
    began, sent = time.time(), 0
    while (passed := time.time() - began) < seconds:
        for _ in range(int(passed * rate) - sent):
            customer = int(rng.integers(10_000))
            client.produce(source, event(customer, int(time.time() * 1000), rng), b"c%d" % customer, customer % PARTITIONS)
            sent += 1
        client.poll(0)
        threading_pause(0.002)
    client.flush()
    threading_pause(2.0)
    stop.set()
    thread.join()
    reader.close()
    cut = (began + seconds / 4) * 1000
    return [spent for at, spent in found if at > cut]


def latency(servers: str) -> None:
    stream = shoppers(servers, 100_000, 10_000)
    rate = stream.n_events / job(Connection(servers), stream, "every")["seconds"] / 2
    with tempfile.TemporaryDirectory() as directory:
        ours = worker_job(servers, directory)
        try:
            ours.start("w0")
            ours.until_working("w0")
            fill(servers, ours.names.input, iter(range(10_000)))
            until(lambda: sum(ours.committed().values()) >= 10_000, "the model has started")
            a = latencies(servers, ours.names.input, ours.names.assignments, rate, 20)
        finally:
            ours.close()
    source, output = bare_output(servers), bare_output(servers)
    command = [sys.executable, "-m", "benchmarks.kafka", "--servers", servers, "--bare", source, output]
    bare = subprocess.Popen(command, cwd=ROOT)
    try:
        threading_pause(3.0)
        b = latencies(servers, source, output, rate, 20)
    finally:
        bare.kill()
        bare.wait()
    p = [float(np.percentile(one, 99)) for one in (a, b)]
    m = [float(np.percentile(one, 50)) for one in (a, b)]
    print(
        f"latency at {rate:,.0f}/s: p99 {p[0]:.0f} ms, pass-through {p[1]:.0f} ms, ratio {p[0] / p[1]:.2f}; "
        f"medians {m[0]:.0f} and {m[1]:.0f} ms ({len(a):,} and {len(b):,} events)",
        flush=True,
    )


def restart(servers: str, n_customers: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ours = worker_job(servers, directory)
        reader = None
        try:
            n = fill(servers, ours.names.input, iter(range(n_customers)))
            ours.start("w0")
            until(lambda: sum(ours.committed_or_none().values()) >= n, "all customers are in the state", 600)
            reader = outside(servers, ours.names.assignments)
            n += fill(servers, ours.names.input, iter(range(2_000)), 1_750_000_000_000)
            first_tag(reader, range(PARTITIONS))
            ours.kill("w0", signal.SIGKILL)
            drain(reader)
            fill(servers, ours.names.input, iter(range(2_000)), 1_750_100_000_000)
            began = time.monotonic()
            ours.start("w0", log="again")
            first_tag(reader, range(PARTITIONS))
            restored = ours.events("again", "partitions_moved")[-1]
            print(
                f"restart after SIGKILL with {n_customers:,} customers: {time.monotonic() - began:.1f} s to the first tags "
                f"of all partitions, {restored['restore_seconds']:.1f} s of it restoring",
                flush=True,
            )
            ours.start("w1")
            until(lambda: bool(ours.events("w1", "partitions_moved")), "w1 has partitions")
            threading_pause(3.0)
            drain(reader)
            began = time.monotonic()
            ours.kill("w0", signal.SIGKILL)
            fill(servers, ours.names.input, iter(range(2_000)), 1_750_200_000_000)
            first_tag(reader, range(PARTITIONS))
            print(
                f"takeover by another worker: {time.monotonic() - began:.1f} s, session time-out {SESSION_TIMEOUT_S:.0f} s",
                flush=True,
            )
        finally:
            if reader is not None:
                reader.close()
            ours.close()


def first_tag(reader: Consumer, partitions: range) -> None:
    """Until there was a tag of each partition."""
    missing, deadline = set(partitions), time.monotonic() + 120
    while missing:
        assert time.monotonic() < deadline, f"no tags of {missing}"
        message = reader.poll(0.05)
        if message is not None and message.error() is None:
            missing.discard(message.partition())


def drain(reader: Consumer) -> None:
    while reader.consume(10_000, 1.0):
        continue


def workers(servers: str, n_events: int = 300_000) -> None:
    seconds: dict[int, float] = {}
    for n in (1, 2, 4):
        with tempfile.TemporaryDirectory() as directory:
            ours = worker_job(servers, directory)
            try:
                for i in range(n):
                    ours.start(f"w{i}")
                for i in range(n):
                    ours.until_working(f"w{i}")
                customers = np.random.default_rng(1).integers(0, 10_000, n_events).tolist()
                warm = fill(servers, ours.names.input, iter(range(5_000)))
                until(lambda ours=ours, warm=warm: sum(ours.committed().values()) >= warm, "warm")  # type: ignore[misc]
                threading.Thread(target=fill, args=(servers, ours.names.input, iter(customers))).start()
                total = warm + n_events
                began = time.monotonic()
                until(
                    lambda ours=ours, total=total: sum(ours.committed().values()) >= total,  # type: ignore[misc]
                    "all events are committed",
                    300,
                )
                seconds[n] = time.monotonic() - began
                stale = staleness(ours)
                print(
                    f"{n} workers: {n_events / seconds[n]:,.0f}/s, {seconds[1] / seconds[n]:.2f} times one; the model of a "
                    f"batch is {statistics.mean(stale):.2f} batches old on average, at most {max(stale)}",
                    flush=True,
                )
            finally:
                ours.close()


def staleness(ours: Job) -> list[int]:
    """Batches between the model that one was made with and its own place in the log."""
    reader = open_reader(Config.model_validate(ours.config))
    found = []
    for version, entry in enumerate(model_entries(reader, 0)):
        record = decode_model_record(entry.payload)
        if isinstance(record, BatchRecord):
            found.append(version - record.manifest.model_version)
    reader.close()
    return found


def memory(servers: str, n_events: int = 10_000_000, n_customers: int = 100_000) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ours = worker_job(servers, directory)
        rng = np.random.default_rng(3)
        customers = (c for _ in range(n_events // 100_000) for c in rng.integers(0, n_customers, 100_000).tolist())
        feeding = threading.Thread(target=fill, args=(servers, ours.names.input, customers), daemon=True)
        feeding.start()
        try:
            process = ours.start("w0")
            ours.until_working("w0")
            for tenth in range(1, 11):
                wanted = n_events * tenth // 10
                until(lambda wanted=wanted: sum(ours.committed_or_none().values()) >= wanted, "a tenth", 900)  # type: ignore[misc]
                status = Path(f"/proc/{process.pid}/status").read_text()
                resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
                print(f"after {wanted:,} events: {int(resident) / 1024:.0f} MiB", flush=True)
        finally:
            ours.close()


PARTS: dict[str, Callable[[str], None]] = {
    "rates": rates,
    "latency": latency,
    "restart": restart,
    "workers": workers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--servers")
    parser.add_argument("--bare", nargs=2, metavar=("INPUT", "OUTPUT"), help="only the pass-through, until it is killed")
    arguments = parser.parse_args()
    if arguments.bare:
        names = new_names()._replace(input=arguments.bare[0], assignments=arguments.bare[1])
        pass_through(Connection(arguments.servers), names, float("inf"))
        return
    broker = None if arguments.servers else Broker(Path(tempfile.mkdtemp())).start()
    try:
        for part in arguments.parts or [name for name in PARTS if name != "memory"]:
            PARTS[part](arguments.servers or broker.address)  # type: ignore[union-attr]
    finally:
        if broker is not None:
            broker.stop()


if __name__ == "__main__":
    main()

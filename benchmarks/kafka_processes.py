"""Workers as real processes: latency, restart, groups, memory: for `benchmarks.kafka`."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from benchmarks.kafka_rates import BATCH, PARTITIONS, SESSION_TIMEOUT_S, bare_output, event, fill, job, shoppers
from streamseg.application.wiring import open_reader
from streamseg.config import Config
from streamseg.engine.log_records import BatchRecord, decode_model_record
from streamseg.engine.restore import model_entries
from streamseg.transports.kafka.client import (
    Connection,
)
from tests.broker import new_name
from tests.integration.kafka_jobs import ROOT, Job
from tests.waiting import pause, until


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
        pause(0.002)
    client.flush()
    pause(2.0)
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
        pause(3.0)
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
            pause(3.0)
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

"""What metrics cost, and how right they are.

    python -m benchmarks.monitoring [cost] [truth]

`cost`: the whole in-memory path with and without metrics and health, in turns. `truth`, on a real broker of its own:
end-to-end latency as the histogram tells it against an outside reader's, at a steady pace; and lag in seconds, sampled while
a burst and an old backlog are worked off and at a steady pace, against the age of the oldest event without a committed tag.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer

from streamseg.application.wiring import App
from streamseg.config import Config
from streamseg.engine.events import Observation, Observers
from streamseg.observability.serving import serving
from streamseg.runtime.batch_report import DriftReports
from streamseg.transports.embedded import EmbeddedTransport
from tests.broker import Broker, new_name
from tests.harness import FixedClock, Recorder, loop, settings_for, shoppers
from tests.stores import create_input, names_of

RUNS = 7
EVENTS = 100_000
BACKLOG, PACE, LOOK_S = 300_000, 2_000, 0.1


class Silent:
    def observe(self, event: Observation) -> None:
        pass


def cost() -> None:
    events, settings = shoppers(EVENTS, customers=20_000), settings_for(model={"segments": 5})

    def seconds(watched: bool) -> float:
        store = EmbeddedTransport(":memory:")
        store.produce(0, [(key, value, 1_700_000_000_000) for key, value, _ in events])
        job = loop(store, settings, Recorder(), 5_000, None, FixedClock())
        endpoint = serving("bench", "", "events", settings.model.names, "127.0.0.1", 0) if watched else None
        job.observer = Observers(*endpoint.observers) if endpoint else Silent()
        if not watched:
            job._drift = DriftReports(float("inf"))
        began = time.process_time()
        job.run()
        spent = time.process_time() - began
        if endpoint:
            endpoint.close()
        return spent

    pairs = [(seconds(True), seconds(False)) for _ in range(RUNS)]
    ratios = sorted(a / b for a, b in pairs)
    print(f"with metrics and drift over without: {np.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


def truth() -> None:
    broker = Broker(Path(tempfile.mkdtemp())).start()
    try:
        _latency(broker.address)
        _lag(broker.address)
    finally:
        broker.stop()


class Watched:
    """A worker in a thread, and its metrics."""

    def __init__(self, servers: str) -> None:
        names = names_of(new_name("truth"))
        create_input(servers, names, 2)
        self.names, self.stop = names, threading.Event()
        config = Config.model_validate({
            "application": names.application,
            "input": {"transport": "kafka", "topic": names.input, "batch_records": 2_000},
            "output": {
                "topic": names.assignments, "catalog_topic": names.catalog, "dead_letter_topic": names.dead_letters,
            },
            "kafka": {"bootstrap_servers": servers},
            "worker": {"id": "w0"},
            "model": {"segments": 3, "warm_up": 100},
        })  # fmt: skip
        self.endpoint = serving("truth", "w0", names.input, ("age", "income", "purchases"), "127.0.0.1", 0)
        self.app = App(config, Observers(*self.endpoint.observers), stop=self.stop)
        self._thread = threading.Thread(target=self.app.run, daemon=True)
        self._thread.start()

    def metric(self, name: str) -> float:
        return max(self.by_label(name).values(), default=0.0)

    def by_label(self, name: str) -> dict[str, float]:
        """Values of a metric, by all that is in the braces."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.endpoint.port}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = re.findall(rf"^streamseg_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def positions(self) -> dict[int, int]:
        """What is tagged, by partition."""
        return {p: task.mark.next for p, task in list(self.app.loop.job.tasks.items())}

    def close(self) -> None:
        self.stop.set()
        self._thread.join()
        self.endpoint.close()


def event(customer: int) -> bytes:
    fields = {"age": 20 + 15 * (customer % 3), "income": 1e3 * (customer % 3) + customer % 7, "purchases": customer % 3}
    return msgspec.json.encode({"customer_id": str(customer), "event_time": time.time_ns() // 1_000_000, **fields})


def _latency(servers: str) -> None:
    """4,000 events a second for 30 s; the first 10 are left out on both sides."""
    watched = Watched(servers)
    reader = Consumer({"bootstrap.servers": servers, "group.id": "truth", "isolation.level": "read_committed",
                       "auto.offset.reset": "earliest", "fetch.wait.max.ms": 5})  # fmt: skip
    reader.subscribe([watched.names.assignments])
    seen: list[tuple[float, float]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for message in reader.consume(200, 0.001):
                now = time.time()
                made = msgspec.json.decode(message.value() or b"")["event_time"]
                seen.append((now, now - np.datetime64(made.rstrip("Z")).astype("datetime64[us]").astype(float) / 1e6))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    before = _paced(servers, watched.names.input, 4_000, 30.0, lambda: _histogram(watched))
    time.sleep(1.0)
    sums, counts = (after - was for after, was in zip(_histogram(watched), before[1], strict=True))
    done.set()
    thread.join()
    reader.close()
    watched.close()
    outside = [latency for at, latency in seen if at > before[0]]
    inside = sums / counts
    print(
        f"event to tag: histogram {1e3 * inside:.1f} ms on average of {counts:,.0f}, an outside reader "
        f"{1e3 * np.mean(outside):.1f} ms of {len(outside):,}: ratio {inside / np.mean(outside):.3f}"
    )


def _histogram(watched: Watched) -> tuple[float, float]:
    return watched.metric("end_to_end_latency_seconds_sum"), watched.metric("end_to_end_latency_seconds_count")


def _paced(servers: str, topic: str, rate: int, seconds: float, look: Callable[[], Any]) -> tuple[float, Any]:
    """Produce; after a third of the time, look. Returns when that was, and what was seen."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 2})
    began, sent, found = time.monotonic(), 0, (0.0, None)
    while (passed := time.monotonic() - began) < seconds:
        for i in range(sent, int(passed * rate)):
            producer.produce(topic, event(i % 5_000), str(i % 5_000).encode(), partition=i % 2)
        sent = int(passed * rate)
        producer.poll(0)
        if found[1] is None and passed > seconds / 3:
            found = time.time(), look()
        time.sleep(0.002)
    producer.flush(30)
    return found


def _lag(servers: str) -> None:
    """While 300,000 events are worked off that were made just now, or over the last hour; and at a steady pace."""
    now = time.time()
    _lag_of_backlog(servers, "a burst of 300,000 events", lambda i: time.time())
    _lag_of_backlog(servers, "a backlog of the last hour", lambda i: now - 3_600 * (1 - i / BACKLOG))
    _lag_at_a_pace(servers)


def _lag_of_backlog(servers: str, what: str, made_at: Callable[[int], float]) -> None:
    watched = Watched(servers)
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": 1_000_000})
    made: dict[int, list[float]] = {0: [], 1: []}
    for i in range(BACKLOG):
        # One partition has much more than the other.
        partition = int(i % 5 == 0)
        made[partition].append(made_at(i))
        producer.produce(
            watched.names.input, event(i % 5_000), partition=partition, timestamp=int(made[partition][-1] * 1000)
        )
    producer.flush(60)
    # Before it has its partitions a worker has no lag of its own.
    while len(watched.positions()) < 2:
        time.sleep(0.02)
    watch = Watch(watched, made)
    while watch.waiting:
        watch.look()
    watched.close()
    print(f"lag in seconds, {what}: {watch}")


def _lag_at_a_pace(servers: str) -> None:
    watched = Watched(servers)
    made: dict[int, list[float]] = {0: [], 1: []}
    stop = threading.Event()

    def feed() -> None:
        producer, began, sent = Producer({"bootstrap.servers": servers, "linger.ms": 2}), time.monotonic(), 0
        while not stop.wait(0.002):
            for i in range(sent, int((time.monotonic() - began) * PACE)):
                at = time.time()
                producer.produce(watched.names.input, event(i % 5_000), partition=i % 2, timestamp=int(at * 1000))
                made[i % 2].append(at)
                sent = i + 1
            producer.poll(0)
        producer.flush(30)

    feeder = threading.Thread(target=feed)
    feeder.start()
    while len(watched.positions()) < 2:
        time.sleep(0.02)
    watch, ends = Watch(watched, made), time.monotonic() + 20.0
    while time.monotonic() < ends:
        watch.look()
    stop.set()
    feeder.join()
    watched.close()
    print(f"lag in seconds at {PACE:,} events a second: {watch}")


class Watch:
    """What lag is said to be, against what it is: between what it was a look ago and what it is just after.

    A commit is known to the worker's table a moment before it is told of, and there may be one between any two looks.
    """

    def __init__(self, watched: Watched, made: Mapping[int, Sequence[float]]) -> None:
        self._watched, self._made = watched, made
        self._before = watched.positions()
        self._off, self.samples, self.unknown = 0.0, 0, 0

    @property
    def waiting(self) -> bool:
        return any(self._before.get(p, 0) < len(times) for p, times in self._made.items())

    def look(self) -> None:
        """Takes a look's time."""
        time.sleep(LOOK_S)
        said, now = self._watched.by_label("consumer_lag_seconds"), time.time()
        after = self._watched.positions()
        for labels, seconds in said.items():
            partition = int(re.findall(r'partition="(\d+)"', labels)[0])
            most, least = (now - at if at is not None else 0.0 for at in self._oldest(partition, self._before, after))
            if math.isnan(seconds):
                self.unknown += 1
            else:
                self.samples += 1
                self._off = max(self._off, seconds - most, least - seconds)
        self._before = after

    def __str__(self) -> str:
        return f"off by at most {self._off:.2f} s in {self.samples} samples, {self.unknown} more were said to be unknown"

    def _oldest(self, partition: int, *positions: Mapping[int, int]) -> list[float | None]:
        times = self._made[partition]
        return [times[at.get(partition, 0)] if at.get(partition, 0) < len(times) else None for at in positions]


PARTS: dict[str, Callable[[], None]] = {"cost": cost, "truth": truth}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()

"""Whole jobs in memory, for tests: real store, real loop, a clock and faults of our own."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamseg.config import Config
from streamseg.core.model.codec import pack
from streamseg.core.model.records import Start
from streamseg.core.model.spec import STEP
from streamseg.engine.events import Observation
from streamseg.engine.job import Job
from streamseg.engine.ports import LogReader, Topic
from streamseg.engine.restore import restore
from streamseg.engine.settings import JobSettings
from streamseg.engine.verify import Verifier
from streamseg.engine.verify_partition import Report
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport

NOW_US = 1_800_000_000_000_000
T0_MS = 1_700_000_000_000

Event = tuple[bytes | None, bytes | None, int | None]


FADING = [
    {"name": "age"},
    {"name": "income", "aggregate": "sum", "half_life": "6h", "transform": "log1p"},
    {"name": "purchases", "aggregate": "sum", "half_life": "6h", "transform": "log1p"},
]


class FixedClock:
    """Always the same time, so that runs of one input give the same bytes."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now = now_us

    def now_us(self) -> int:
        return self.now


class Recorder:
    """Keeps what observers are told."""

    def __init__(self) -> None:
        self.events: list[Observation] = []

    def observe(self, event: Observation) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Crash(BaseException):
    """The process ends here."""


def crash_at(point: str, call: int) -> Callable[[str], None]:
    """Crashes at the `call`-th pass (from 0) of a named point."""
    left = [call]

    def fault(name: str) -> None:
        if name == point:
            if left[0] == 0:
                raise Crash(f"{point} {call}")
            left[0] -= 1

    return fault


def settings_for(snapshot_bytes: int = 16_000_000, step: int = STEP, **config: Any) -> JobSettings:
    """Settings of a configuration given as a nested dict. `step`: of the model, in records, for short streams."""
    made = Config.model_validate(config).job_settings()
    return dataclasses.replace(made, snapshot_bytes=snapshot_bytes, step_records=step)


def event(customer: str | int | None, at_s: float = 0.0, **fields: Any) -> Event:
    body = {"customer_id": customer, "event_time": T0_MS + round(at_s * 1000), **fields}
    return None, msgspec.json.encode({k: v for k, v in body.items() if v is not None}), None


def shoppers(n: int, customers: int = 40, seed: int = 0, k: int = 3) -> list[Event]:
    """Events of customers in k groups, in time order."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        c = int(rng.integers(customers))
        g = c % k
        values = {
            "age": 20 + 15 * g + rng.normal(),
            "income": 1000.0 * (g + rng.normal() / 10),
            "purchases": g + rng.random(),
        }
        events.append(event(f"c{c}", i * 60.0, **values))
    return events


BAD: list[Event] = [
    (None, b"{broken", None),
    (None, b"[1, 2]", None),
    event(None, 0.0, age=1.0),
    event("bad", 0.0, age="old"),
    (None, b'{"customer_id":"bad","event_time":1700000000000,"age":1e308}', None),
    (None, None, None),
]


def jumping(n: int, jump: int = 9_000) -> list[Event]:
    """Events of as many customers in four groups, which all go elsewhere at once."""
    rng = np.random.default_rng(5)
    before, after = rng.normal(0.0, 6.0, (4, 3)), rng.normal(0.0, 6.0, (4, 3)) + 5.0
    names = settings_for().model.names
    events = []
    for i in range(n):
        x = (before if i < jump else after)[rng.integers(4)] + rng.normal(size=3)
        events.append(event(f"c{i}", float(i), **dict(zip(names, x.tolist(), strict=True))))
    return events


def run_memory(
    events: Sequence[Event],
    settings: JobSettings,
    *,
    batch_records: int = 500,
    transport: EmbeddedTransport | None = None,
    warm_start: Start | None = None,
    n_partitions: int = 1,
    clock: FixedClock | None = None,
) -> tuple[EmbeddedTransport, Recorder]:
    """Produce events (spread over partitions by customer) and run the job until they are done."""
    transport = transport or EmbeddedTransport(":memory:", n_partitions=n_partitions)
    produce(transport, events)
    recorder = Recorder()
    loop(transport, settings, recorder, batch_records, warm_start, clock).run()
    return transport, recorder


def produce(transport: EmbeddedTransport, events: Sequence[Event]) -> None:
    for partition in range(transport.n_partitions):
        mine = [e for e in events if partition_of(e, transport.n_partitions) == partition]
        transport.produce(partition, mine)


def partition_of(e: Event, n: int) -> int:
    key = e[0] or e[1] or b""
    start = key.find(b'"customer_id":')
    name = key[start : key.find(b",", start)] if start >= 0 else key
    return sum(name) % n


def loop(
    transport: EmbeddedTransport,
    settings: JobSettings,
    recorder: Recorder,
    batch_records: int = 500,
    warm_start: Start | None = None,
    clock: FixedClock | None = None,
) -> Loop:
    return Loop(
        transport,
        settings,
        clock or FixedClock(),
        recorder,
        threading.Event(),
        batch_records=batch_records,
        warm_start=warm_start,
    )


def run_through_crashes(
    events: Sequence[Event], settings: JobSettings, faults: Sequence[Callable[[str], None]], batch_records: int = 500
) -> tuple[EmbeddedTransport, int]:
    """Run to the end, restarting after each crash. Returns the store and how many crashes there were."""
    transport = EmbeddedTransport(":memory:")
    produce(transport, events)
    crashes = 0
    for fault in [*faults, lambda point: None]:
        transport._fault = fault
        try:
            loop(transport, settings, Recorder(), batch_records).run()
            break
        except Crash:
            crashes += 1
    transport._fault = lambda point: None
    loop(transport, settings, Recorder(), batch_records).run()
    return transport, crashes


def tags(transport: EmbeddedTransport, partition: int = 0) -> list[dict[str, Any] | None]:
    return [
        None if value is None else msgspec.json.decode(value) for value in published(transport, Topic.ASSIGNMENTS, partition)
    ]


def tags_without(transport: EmbeddedTransport, *fields: str) -> list[str]:
    """Tags as text, without some fields."""
    found = [tag if tag is None else {k: v for k, v in tag.items() if k not in fields} for tag in tags(transport)]
    return [json.dumps(tag) for tag in found]


def letters(transport: EmbeddedTransport, partition: int = 0) -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for value in published(transport, Topic.DEAD_LETTERS, partition) if value is not None]


def published(transport: LogReader, topic: Topic, partition: int = 0, first: int = 0) -> list[bytes | None]:
    found = transport.published(topic, partition, first)
    assert found is not None
    return list(found.values)


def restored(transport: EmbeddedTransport, settings: JobSettings) -> Job:
    return restore(transport, settings, FixedClock(), range(transport.n_partitions))


def verified(transport: EmbeddedTransport, settings: JobSettings) -> Report:
    return Verifier(transport, settings, FixedClock(), lambda report: None).run()


def fingerprint(job: Job) -> tuple[Any, ...]:
    """Everything that a job holds, to compare bit for bit."""
    tables = []
    for partition, task in sorted(job.tasks.items()):
        columns = {spec.name: task.table.column(spec.name).tobytes() for spec in task.table.specs}
        seen = [pack(ids) for ids in task.seen.chunks(1_000)]
        tables.append((partition, task.mark, list(task.table.ids), sorted(task.table.free), columns, seen))
    return job.state.version, job.replica.digest, job.replica.positions, tables


def everything(transport: EmbeddedTransport, settings: JobSettings) -> tuple[Any, ...]:
    """All that a run leaves behind: outputs, offsets, state."""
    outputs = [published(transport, topic, p) for topic in Topic for p in range(transport.n_partitions)]
    return outputs, transport.committed(), fingerprint(restored(transport, settings))


def write_lines(path: Path, events: Sequence[Event]) -> None:
    path.write_bytes(b"".join((value or b"") + b"\n" for _, value, _ in events))

"""Speed, as ratios against river in the same run.

    python -m benchmarks.speed

Each line gives events a second of a path of ours, of river's `StandardScaler | KMeans(n_clusters=5)` doing learn_one and
predict_one on ready dicts, and their ratio. The two are timed in turn, five times, and the medians are taken: the
machine is shared, so only ratios mean anything.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from river import cluster, preprocessing

from streamseg import Segmenter
from streamseg.application.wiring import App
from streamseg.config import Config
from streamseg.core.model.initialization import start_from_centers
from streamseg.engine.events import Observation
from streamseg.engine.job import Job
from streamseg.engine.ports import Ownership, Polled, Records
from streamseg.engine.restore import model_entries
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport

N_EVENTS = 100_000
N_CUSTOMERS = 10_000
BATCH = 5_000
K = 5
REPEATS = 5
# Over the arrays, so that the warm-up's k-means is a small part.
PASSES = 10
FEATURES = ("age", "income", "purchases")
DECAYED = [
    {"name": "age"},
    {"name": "income", "aggregate": "sum", "half_life": "90d", "transform": "log1p"},
    {"name": "purchases", "aggregate": "sum", "half_life": "90d", "transform": "log1p"},
]


class Quiet:
    def observe(self, event: Observation) -> None:
        """Nobody looks."""


class Workload(NamedTuple):
    """The same events in every form."""

    x: np.ndarray[Any, np.dtype[np.float64]]
    dicts: list[dict[str, float]]
    values: list[bytes]


def workload(n: int = N_EVENTS, customers: int = N_CUSTOMERS) -> Workload:
    """Random customers of a mixture of five groups, in event-time order."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, K, customers)
    who = rng.integers(0, customers, n)
    centers = np.stack([20 + 12 * np.arange(K), 20_000 + 15_000 * ((2 * np.arange(K)) % K), 3 * np.arange(K)], axis=1)
    x = centers[group[who]] + rng.normal(size=(n, 3)) * [2.0, 1_500.0, 0.5]
    rows = x.tolist()
    values = [
        msgspec.json.encode(
            {"customer_id": f"c{c}", "event_time": 1_700_000_000_000 + 100 * i, **dict(zip(FEATURES, row, strict=True))}
        )
        for i, (c, row) in enumerate(zip(who.tolist(), rows, strict=True))
    ]
    return Workload(x, [dict(zip(FEATURES, row, strict=True)) for row in rows], values)


def river_run(work: Workload) -> None:
    model = preprocessing.StandardScaler() | cluster.KMeans(n_clusters=K, seed=0)
    for row in work.dicts[: N_EVENTS // 5]:
        model.learn_one(row)
        model.predict_one(row)


def array_run(work: Workload) -> None:
    model = Segmenter(FEATURES, K)
    for _ in range(PASSES):
        for first in range(0, len(work.x), BATCH):
            rows = work.x[first : first + BATCH]
            model.learn_many(rows)
            model.assign_many(rows)


def config_for(**sections: Any) -> Config:
    return Config.model_validate({"model": {"segments": K}, "input": {"batch_records": BATCH}} | sections)


def plan_run(work: Workload, config: Config) -> float:
    """Bytes to commit plan, with the state applied in between. Returns the seconds spent on plans."""
    settings = config.job_settings()
    transport = EmbeddedTransport(":memory:")
    names = settings.model.names
    logged = np.array([feature.transform == "log1p" for feature in settings.model.features])
    rows = np.where(logged, np.log1p(work.x[:K]), work.x[:K])
    centers = {i: dict(zip(names, row, strict=True)) for i, row in enumerate(rows.tolist())}
    start = start_from_centers(settings.model, centers)
    loop = Loop(transport, settings, FixedClock(), Quiet(), threading.Event(), batch_records=BATCH, warm_start=start)
    loop._restore()
    job, seconds = loop.job, 0.0
    for first in range(0, len(work.values), BATCH):
        polled = _polled(work.values, first, transport.ownership())
        began = time.perf_counter()
        planned = job.plan_batch(polled, drained=True)
        seconds += time.perf_counter() - began
        transport.commit(planned.plan)
        job.committed(planned)
        _catch_up(job, transport)
    transport.close()
    return seconds


def _polled(values: list[bytes], first: int, ownership: Ownership) -> Polled:
    part = values[first : first + BATCH]
    nothing = [None] * len(part)
    records = Records(range(first, first + len(part)), nothing, part, nothing, first + len(part))
    return Polled({0: records}, ownership)


def _catch_up(job: Job, transport: EmbeddedTransport) -> None:
    for entry in model_entries(transport, job.replica.next_offset):
        job.apply_model_entry(entry)


class FixedClock:
    def now_us(self) -> int:
        return 1_800_000_000_000_000


def file_run(events: Path, config: Config) -> None:
    """File to durable log to file, everything included."""
    with tempfile.TemporaryDirectory(dir=events.parent) as directory:
        where = {
            "input": config.input.model_copy(update={"path": str(events)}),
            "output": config.output.model_copy(update={"path": f"{directory}/tags.jsonl"}),
            "embedded": config.embedded.model_copy(update={"path": f"{directory}/state.db"}),
        }
        App(config.model_copy(update=where), Quiet()).run()


def seconds_of(run: Callable[[], float | None]) -> float:
    began = time.perf_counter()
    own = run()
    return time.perf_counter() - began if own is None else own


def compare(name: str, run: Callable[[], float | None], peer: Callable[[], None], aim: str, n: int = N_EVENTS) -> float:
    """Time both in turn, `n` events of ours; print rates and the ratio of medians."""
    ours, theirs = [], []
    for _ in range(REPEATS):
        ours.append(seconds_of(run))
        theirs.append(seconds_of(peer))
    our_rate = n / statistics.median(ours)
    their_rate = N_EVENTS / 5 / statistics.median(theirs)
    print(f"{name:<58} {our_rate:>10,.0f}/s  river {their_rate:>8,.0f}/s  ratio {our_rate / their_rate:6.2f}  ({aim})")
    return our_rate / their_rate


def main() -> None:
    work = workload()
    last, decayed = config_for(), config_for(features=DECAYED)
    with tempfile.TemporaryDirectory() as directory:
        events = Path(directory) / "events.jsonl"
        events.write_bytes(b"".join(value + b"\n" for value in work.values))

        def peer() -> None:
            river_run(work)

        compare("bytes to commit plan, last values", lambda: plan_run(work, last), peer, "at least 5, aim 8")
        compare("bytes to commit plan, two decayed aggregates", lambda: plan_run(work, decayed), peer, "printed")
        compare(
            "learn_many and assign_many on arrays", lambda: array_run(work), peer, "at least 30, aim 50", PASSES * N_EVENTS
        )
        compare("file to durable log to file", lambda: file_run(events, last), peer, "at least 2")


if __name__ == "__main__":
    main()

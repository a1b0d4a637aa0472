"""Segments of customers against a batch k-means of the same table, on the way and at the end.

    python -m benchmarks.tables                      the demo's baskets
    python -m benchmarks.tables events.jsonl spend   your own events, with one numeric field

For each number of segments and transform, ten times in a run: squared distances of the customers that are counted to their
nearest center, over those of the best of ten k-means (scikit-learn) with as many centers; and how far, in deviations, a
center lies off the mean of the customers counted for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans

from streamseg.application.demo_data import EVENTS_FILE, write_demo
from streamseg.application.wiring import past
from streamseg.config import load
from streamseg.engine.backtest import Rehearsal
from streamseg.engine.clock import SystemClock

CHECKPOINTS = 10
NUMBERS: tuple[int | str, ...] = (3, 4, 5, 8, "auto")
VARIANTS = (("log1p", None), ("log1p", "90d"), ("none", None), ("none", "90d"), ("log1p", "recency"))


class Judged(NamedTuple):
    """One checkpoint: inertia over the best of ten, that of one start over it, centers' error, customers and outliers."""

    ratio: float
    one_start: float
    off: float
    customers: int
    outliers: int
    segments: int


def judged(rehearsal: Rehearsal) -> Judged | None:
    job = rehearsal.job
    state, spec, task = job.state, job.settings.model, job.tasks[0]
    if not state.ready or state.population is None:
        return None
    rows = np.array(list(task.table.index.values()), dtype=np.int64)
    x = task.table.vectors(rows, task.mark.sweep.as_of)
    tagged = ~np.isnan(x[: spec.n_weighted]).any(axis=0)
    beyond = state.population.outliers(x[:, tagged])
    segment = task.table.column("segment")[rows[tagged]][~beyond]
    scale = np.sqrt(state.metric.inverse(spec))[:, None]
    points = (x[: spec.n_weighted, tagged][:, ~beyond] * scale).T
    centers = (state.tagging.centers.centers * scale).T
    k = len(centers)
    if len(np.unique(points, axis=0)) <= k:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = KMeans(k, n_init=10, random_state=0).fit(points).inertia_
        one = KMeans(k, n_init=1, random_state=1).fit(points).inertia_
    nearest = ((points[:, None] - centers[None]) ** 2).sum(axis=2).min(axis=1).sum()
    means = [(points[segment == i].mean(axis=0), centers[j]) for j, i in enumerate(state.ids) if (segment == i).any()]
    off = max((float(np.abs(mean - center).max()) for mean, center in means), default=0.0)
    return Judged(float(nearest / best), float(one / best), off, len(points), int(beyond.sum()), k)


def run(path: Path, field: str, segments: int | str, transform: str, half_life: str | None) -> str:
    """A line of the table. With "recency" for a half-life the days since the last event are a feature, too."""
    fading = {} if half_life in (None, "recency") else {"half_life": half_life}
    features: list[dict[str, Any]] = [
        {"name": "events", "aggregate": "count", "transform": transform} | fading,
        {"name": field, "aggregate": "sum", "transform": transform} | fading,
    ]
    if half_life == "recency":
        features.append({"name": "recency", "aggregate": "recency", "transform": transform})
    config = load(None, {"input.path": str(path), "features": features, "model.segments": segments}, {}).config
    rehearsal = Rehearsal(config.job_settings(), SystemClock(), {0: 0}, config.input.batch_records)
    batches = [records for batch in past(config).batches for records in batch.values()]
    total = sum(len(records.offsets) for records in batches)
    found: list[Judged] = []
    done, cpu = 0, 0.0
    for records in batches:
        for first in range(0, len(records.offsets), 2_000):
            began = time.process_time()
            piece = records.part(first, min(first + 2_000, len(records.offsets)))
            rehearsal.feed({0: piece})
            cpu += time.process_time() - began
            before, done = done, done + len(piece.offsets)
            if before * CHECKPOINTS // total < done * CHECKPOINTS // total < CHECKPOINTS:
                found += [each for each in [judged(rehearsal)] if each is not None]
    rehearsal.feed({}, ended=True)
    found += [each for each in [judged(rehearsal)] if each is not None]
    ratios, last = [each.ratio for each in found], found[-1]
    number = f"{last.segments}" + (" (auto)" if segments == "auto" else "")
    values = ", ".join(filter(None, (transform, half_life)))
    return (
        f"| {path.stem} | {number} | {values} | {statistics.median(ratios):.3f} "
        f"| {max(ratios):.3f} | {last.ratio:.3f} | {last.one_start:.3f} | {rehearsal.job.state.promotions} "
        f"| {max(each.off for each in found):.2g}, {last.off:.1g} | {last.outliers} of {last.customers + last.outliers} "
        f"| {cpu / total * 1e6:.0f} |"
    )


HEADS = (
    "events", "segments", "features", "median", "worst", "at the end", "one start", "refits",
    "center off: most, at the end", "not counted", "us an event",
)  # fmt: skip


def main() -> None:
    print(f"| {' | '.join(HEADS)} |")
    print("|---" * len(HEADS) + "|")
    with tempfile.TemporaryDirectory() as place:
        path, field = Path(place) / EVENTS_FILE, "spend"
        if len(sys.argv) > 2:
            path, field = Path(sys.argv[1]), sys.argv[2]
        else:
            write_demo(Path(place))
        for segments in NUMBERS:
            for transform, half_life in VARIANTS:
                print(run(path, field, segments, transform, half_life), flush=True)


if __name__ == "__main__":
    main()

"""What observers are told of a turn of the loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from math import inf

import numpy as np

from streamseg.core.model.drift import Drift
from streamseg.core.model.spec import in_words
from streamseg.core.numeric.types import Array, Ints
from streamseg.engine.events import (
    BatchCommitted,
    Detected,
    DriftEnded,
    DriftMeasured,
    Observation,
    Polling,
    Profiled,
    Waiting,
)
from streamseg.engine.job import Job
from streamseg.engine.ports import Polled
from streamseg.engine.window import unknown_features

# Between two looks at drift: one takes milliseconds.
DRIFT_EVERY_S = 5.0
# Events whose traces a span is linked to.
_MOST_LINKS = 100


def polling(polled: Polled, lags: Mapping[int, int]) -> Polling:
    first_ms = {
        p: records.timestamps_ms[0]
        for p, records in polled.partitions.items()
        if len(records.offsets) and records.timestamps_ms[0] is not None
    }
    generation, owned = polled.ownership.generation, polled.ownership.partitions
    return Polling(generation, owned, dict(lags), first_ms)


def traces_of(polled: Polled) -> list[bytes]:
    """The first different traces of a batch's events."""
    every = chain.from_iterable(records.traces or () for records in polled.partitions.values())
    found: dict[bytes, None] = {}
    for trace in every:
        if trace is not None:
            found[trace] = None
            if len(found) == _MOST_LINKS:
                break
    return list(found)


def completed(event: Observation, polled: Polled, committed_us: int, stages: Mapping[str, float], job: Job) -> Observation:
    """The event of a committed batch, with what only the loop knows."""
    assert isinstance(event, BatchCommitted)
    produced = {
        p: np.array(records.timestamps_ms, dtype=np.float64)
        for p, records in polled.partitions.items()
        if len(records.offsets) and records.timestamps_ms[0] is not None
    }
    state, speeds = job.state, job.settings.model.speeds
    half_life = in_words(speeds[state.tagging.speed]) if state.ready else ""
    return replace(
        event, committed_us=committed_us, produced_ms=produced, stages=stages, half_life=half_life,
        promotions=state.promotions, epoch=state.epoch, snapshot_due=job.snapshot_due(),
        refused=0 if state.external is None else state.external.refused,
    )  # fmt: skip


def missing_model(job: Job) -> Waiting:
    """Why there is none though the input has ended."""
    complete, needed = len(job.state.warm_up.rows), job.settings.model.least_segments
    customers, unknown = unknown_features(job.tasks.values(), job.settings)
    message = (
        f"the input ended before there was a model: {complete:,} of {customers:,} customers have all features, and at "
        f"least {needed} that differ are needed for {needed} segments"
    )
    if not customers:
        message += "; no record was an event of a customer: dead letters say why"
    elif unknown:
        message += f"; no event had: {', '.join(unknown)}"
    return Waiting("no_model", message, {"customers": complete, "segments": needed, "unknown": unknown})


class DriftReports:
    """Reports segments and drift every few seconds, and when drift begins and ends."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._looked_at = every_s, -inf
        self._told: dict[str, Detected] = {}

    def due(self, job: Job, *, now: bool, window: tuple[Array, Ints] | None = None) -> list[Observation]:
        """Pending reports. `now`: whatever time has passed since the last ones; `window`: as `Job.drift` takes it."""
        if not job.state.ready or (not now and time.monotonic() - self._looked_at <= self._every_s):
            return []
        self._looked_at = time.monotonic()
        profiled, drift = Profiled(tuple(job.profiles())), job.drift(window)
        if drift is None:
            return [profiled]
        found = detections_of(drift)
        new: list[Observation] = [found[name] for name in sorted(found.keys() - self._told.keys())]
        over = [DriftEnded(was.detector, was.details) for name, was in sorted(self._told.items()) if name not in found]
        self._told = found
        return [profiled, DriftMeasured(drift), *new, *over]


def detections_of(drift: Drift) -> dict[str, Detected]:
    """What drifts, by a name that lasts as long as it does."""
    found = {}
    for name in drift.drifted:
        one = drift.features[name]
        details = {
            "feature": name,
            "before": round(one.before, 6),
            "after": round(one.after, 6),
            "psi": round(one.psi.value, 4),
            "distance": round(one.distance.value, 4),
            "customers": drift.n,
        }
        found[f"feature:{name}"] = Detected("feature", one.in_words(name), details)
    if drift.shares_drifted:
        details = {"psi": round(drift.shares.value, 4), "off": round(drift.share_off, 4), "customers": drift.n}
        found["shares"] = Detected("shares", "the segments' sizes are not what they were", details)
    return found

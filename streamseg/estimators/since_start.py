"""What a model learned since it began, as one delta: how estimators that learned apart are merged."""

from __future__ import annotations

import msgspec
import numpy as np

from streamseg.core.model.records import CandidateDelta, Delta, Start
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState, Profile
from streamseg.core.numeric.clusters import CenterDelta
from streamseg.core.numeric.moments import Moments
from streamseg.core.numeric.types import Ints


class Begun(msgspec.Struct):
    """How a model began: its first centers, and where the counters stood then."""

    start: Start
    clock: float
    age: float
    rows: int
    clipped: int
    held_back: int


def since_start(state: ModelState, begun: Begun, spec: ModelSpec) -> Delta:
    """What a model learned since it began, as one delta: its sums less those of the start, faded alike."""
    age = state.age - begun.age
    faded, _ = spec.forgetting.meet(begun.clock, state.clock, age)
    champion, first = state.tagging, begun.start.centers
    now = champion.centers
    origin = state.metric.origin[: spec.n_weighted]
    before = first.weights * faded
    hits = np.maximum(now.weights - before, 0.0)
    sums = now.weights * (now.centers - origin[:, None]) - before * (first.centers - origin[:, None])
    learned = now.learned - first.learned
    delta = CenterDelta(origin, hits, np.where(hits > 0.0, sums, 0.0), np.zeros_like(hits), learned)
    none: Ints = np.zeros(0, dtype=np.int64)
    return Delta(
        0, b"", state.metric.epoch, state.clock, state.last_time, age, state.rows - begun.rows,
        _moments_since(state.moments, begun.start.moments, faded), [CandidateDelta(champion.id, delta)],
        Profile.empty(0, len(state.segments)), none, np.zeros(0), None, None,
        clipped=state.clipped - begun.clipped, held_back=state.held_back - begun.held_back,
    )  # fmt: skip


def _moments_since(now: Moments, start: Moments, faded: float) -> Moments:
    before = start.weight * faded
    weight = now.weight - before
    safe = np.where(weight > 0.0, weight, 1.0)
    gap = np.where(start.weight > 0.0, now.mean - start.mean, 0.0)
    mean = now.mean + gap * (before / safe)
    apart = mean - np.where(start.weight > 0.0, start.mean, mean)
    share = before * weight / np.where(now.weight > 0.0, now.weight, 1.0)
    return Moments(weight, mean, np.maximum(now.m2 - start.m2 * faded - apart * apart * share, 0.0))

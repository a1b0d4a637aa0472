"""Apply: the one function that changes a model. Every worker runs it on every record of the model log, in log order.

Only + - * / and sqrt in a fixed order, and the kernel's own exp2. Whatever scikit-learn, a clock or a random number
decided is data in the record. A record that does not fit (centers that no longer exist, a second start) changes nothing
but the version, so replicas stay in step.
"""

from __future__ import annotations

import numpy as np

from streamseg.kernel.clusters import CenterDelta, apply_delta
from streamseg.kernel.forgetting import NEVER
from streamseg.kernel.moments import Moments
from streamseg.kernel.types import Array, Ints
from streamseg.model.records import CandidateDelta, Delta, ModelChange, Start
from streamseg.model.spec import ModelSpec
from streamseg.model.state import Candidate, Metric, ModelState, Profile


def apply(state: ModelState, spec: ModelSpec, change: ModelChange) -> bool:
    """Apply one record. INOUT state, IN change. Returns whether it counted; ignored records count for the version."""
    state.version += 1
    if isinstance(change, Start):
        return _apply_start(state, change)
    return _apply_delta(state, spec, change)


def _apply_start(state: ModelState, start: Start) -> bool:
    if state.ready:
        return False
    state.candidates = [Candidate.start(list(start.segments), start.centers.copy(), start.profile.copy())]
    state.moments = start.moments.copy()
    state.metric = start.metric
    state.next_id = max(segment.id for segment in start.segments) + 1
    state.members = {segment.id: 0 for segment in start.segments}
    state.warm_up.rows = {}
    return True


def _apply_delta(state: ModelState, spec: ModelSpec, delta: Delta) -> bool:
    # What was there before the first event is as of that event.
    began = state.clock if state.clock != NEVER or delta.first_s is None else delta.first_s
    mine, theirs = spec.forgetting.meet(began, delta.clock, delta.age)
    state.clock = max(state.clock, delta.clock)
    state.last_time = delta.last_time
    state.age += delta.age
    state.rows += delta.rows
    state.clipped += delta.clipped
    state.held_back += delta.held_back
    for segment_id, change in delta.moved.items():
        if segment_id in state.members:
            state.members[segment_id] += change
    _apply_warm_up(state, delta)
    if not state.ready or not delta.candidates:
        return True
    state.moments.decay(mine)
    added = Moments(delta.moments.weight * theirs, delta.moments.mean, delta.moments.m2 * theirs)
    state.moments.merge(added)
    renewed = delta.renewal is not None and delta.epoch == state.metric.epoch
    for candidate, part in zip(state.candidates, delta.candidates, strict=False):
        _apply_candidate(candidate, part, mine, theirs)
        if renewed:
            candidate.histogram = np.zeros_like(candidate.histogram)
        if renewed or (delta.renewal is None and delta.epoch == state.metric.epoch):
            candidate.histogram.ravel()[part.cells] += part.cell_weights * theirs
    if renewed and delta.renewal is not None:
        state.metric = delta.renewal
    elif not state.metric.settled:
        state.metric = unsettled_metric(state.moments, state.tagging.centers.centers, state.metric.epoch)
    return True


def _apply_warm_up(state: ModelState, delta: Delta) -> None:
    warm_up = state.warm_up
    for key in delta.erased:
        warm_up.rows.pop(key, None)
    if state.ready or delta.warm_up is None:
        return
    warm_up.events += delta.events
    if warm_up.first_s is None:
        warm_up.first_s = delta.first_s
    rows = delta.warm_up
    for key, w, at, row in zip(rows.keys, rows.weights.tolist(), rows.at.tolist(), rows.x.T.tolist(), strict=True):
        warm_up.rows[key] = (w, at, row)


def _apply_candidate(candidate: Candidate, part: CandidateDelta, mine: float, theirs: float) -> None:
    if part.ids != candidate.ids:
        part = _addressed(part, candidate.ids)
    apply_delta(candidate.centers, part.centers, mine, theirs)
    candidate.profile.decay(mine)
    candidate.profile.merge(Profile(part.profile.weights * theirs, part.profile.means))
    if mine != 1.0:
        candidate.histogram = candidate.histogram * mine


def _addressed(part: CandidateDelta, ids: list[int]) -> CandidateDelta:
    """The delta's columns in the order of `ids`; centers that are gone are left out, new ones have no hits."""
    column = {segment_id: i for i, segment_id in enumerate(part.ids)}
    there = np.array([segment_id in column for segment_id in ids])
    take: Ints = np.array([column.get(segment_id, 0) for segment_id in ids], dtype=np.int64)
    old = part.centers
    return CandidateDelta(
        ids,
        CenterDelta(
            old.origin,
            np.where(there, old.hits[take], 0.0),
            np.where(there, old.sums[:, take], 0.0),
            np.where(there, old.floor[take], 0.0),
            np.where(there, old.learned[take], 0.0),
        ),
        Profile(np.where(there, part.profile.weights[:, take], 0.0), part.profile.means[:, take]),
        np.zeros(0, dtype=np.int64),
        np.zeros(0),
    )


def unsettled_metric(moments: Moments, centers: Array, epoch: int) -> Metric:
    """The metric of a start from centers alone: running variances, and the centers' spread where one is still zero."""
    variance = moments.variance()
    k = centers.shape[1]
    mean = np.add.reduce(centers, axis=1) / k
    off = centers - mean[:, None]
    spread = np.zeros_like(variance)
    spread[: len(centers)] = np.add.reduce(off * off, axis=1) / k
    origin = moments.mean.copy()
    origin[: len(mean)] = np.where(moments.weight[: len(mean)] > 0.0, moments.mean[: len(mean)], mean)
    return Metric(epoch, False, origin, np.where(variance > 0.0, variance, spread))

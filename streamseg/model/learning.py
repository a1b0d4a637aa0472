"""Learning: rows to a delta. Nothing here changes the model; `apply` does, when the delta comes back through the log.

A batch steps in blocks on a local copy, so that what is learned does not depend on how large a transaction was: each
block is assigned with the centers as the block before left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from streamseg.kernel import histogram
from streamseg.kernel.clusters import BLOCK_ROWS, Step, clip_to_centers, nearest_label
from streamseg.kernel.forgetting import NEVER, guarded_times
from streamseg.kernel.metric import RENEWAL_FACTOR, is_off, leaves
from streamseg.kernel.moments import Moments, moments_about, moments_of, side_by_side, stacked
from streamseg.kernel.types import Array, Ints, sums_by_label
from streamseg.model.apply import unsettled_metric
from streamseg.model.records import CandidateDelta, Delta, WarmRows
from streamseg.model.spec import SETTLING_ROWS, ModelSpec
from streamseg.model.state import Candidate, Metric, ModelState, Profile


def block_edges(counter: int, n_rows: int, first: int = 0) -> list[int]:
    """Edges of blocks of `BLOCK_ROWS` over rows [first, first + n_rows), `counter` rows being in the open block."""
    inner = range(first + BLOCK_ROWS - counter % BLOCK_ROWS, first + n_rows, BLOCK_ROWS)
    return [first, *inner, first + n_rows]


def learn(
    state: ModelState, spec: ModelSpec, x: Array, w: Array, t: Array | None, edges: Sequence[int], digest: bytes = b""
) -> Delta:
    """The delta of rows. IN all; x (n_features, n_rows) with weighted features complete, w (n_rows,), t in seconds.

    `edges` are the block edges; `digest` is the state's, where a log wants it.
    """
    local = _Local(state, spec)
    if t is not None and len(t):
        last = float(t[-1])
        t, held = guarded_times(t, state.clock, state.last_time, spec.max_ahead)
        local.held_back = int(np.count_nonzero(held))
        if state.clock == NEVER:
            local.clock = local.first_s = float(t[0])
    else:
        last = state.last_time
    for first, end in pairwise(edges):
        if end > first:
            local.block(x[:, first:end], w[first:end], None if t is None else t[first:end])
    return local.delta(state, x.shape[1], last, digest)


def collect(
    state: ModelState,
    spec: ModelSpec,
    rows: WarmRows,
    events: int,
    age: float,
    t: Array | None,
    digest: bytes = b"",
) -> Delta:
    """The delta of a batch of a warm-up. IN all; `events` accepted events of weight `age` at times `t` (seconds)."""
    clock, last, first, held = state.clock, state.last_time, None, 0
    if t is not None and len(t):
        first, last = float(t[0]), float(t[-1])
        guarded, ahead = guarded_times(t, clock, state.last_time, spec.max_ahead)
        clock = max(clock, float(guarded.max()))
        held = int(np.count_nonzero(ahead))
    return Delta(
        state.version, digest, state.metric.epoch, clock, last, age, events, Moments.empty(len(spec.features)), [], None,
        rows, events=events, first_s=first, held_back=held,
    )  # fmt: skip


class _Local:
    """The champion and the metric on their way through the blocks of one batch."""

    def __init__(self, state: ModelState, spec: ModelSpec) -> None:
        self.spec = spec
        self.renewal: Metric | None = None
        self.candidate: Candidate = state.tagging
        self.origin = state.metric.origin[: spec.n_weighted]
        self.step = Step(self.candidate.centers, self.origin)
        self.profile = Profile.empty(len(spec.features) - spec.n_weighted, len(self.candidate.segments))
        # Two rows: the running moments, and what the batch adds to them.
        self.moments = stacked([state.moments, Moments.empty(len(spec.features))])
        self.seen: list[_Seen] = []
        self.clock = state.clock
        self.first_s: float | None = None
        self.age = 0.0
        self.rows = state.rows
        self.clipped = 0
        self.held_back = 0
        self._set_metric(state.metric)

    def _set_metric(self, metric: Metric) -> None:
        spec, sigmas = self.spec, self.spec.clip_sigmas
        self.metric = metric
        self.inverse = metric.inverse(spec)
        variance = metric.variance[: spec.n_weighted]
        self.lowest, self.highest = variance / RENEWAL_FACTOR, variance * RENEWAL_FACTOR
        self.spread: Array | None = None
        self.clip_above = np.inf
        if sigmas is not None and metric.settled:
            scaled = self.inverse > 0.0
            safe = np.where(scaled, self.inverse, 1.0)
            self.spread = np.where(scaled, sigmas * np.sqrt(spec.feature_weight / safe), np.inf)
            # Nearer than this, no feature can be beyond the clip: most blocks need no more than this look.
            self.clip_above = sigmas * sigmas * float(spec.feature_weight.min())

    def block(self, x: Array, w: Array, t: Array | None) -> None:
        """Learn one block, having assigned it with what stands now. IN all."""
        n = self.spec.n_weighted
        rows = x[:n]
        labels, squared = nearest_label(rows, self.step.centers, self.inverse)
        if self.spread is not None and np.maximum.reduce(squared) > self.clip_above:
            clipped = clip_to_centers(rows, labels, self.step.centers, self.spread)
            self.clipped += int(np.count_nonzero(clipped != rows))
            rows = clipped
        aged = self.spec.forgetting.age(w, t, self.clock)
        self.clock = aged.clock
        self.age += float(np.add.reduce(w))
        self._decay(aged.factor)
        relative = rows - self.origin[:, None]
        weighted = relative * aged.weights
        forgets = self.spec.forgetting.unit != "none"
        self.step.learn(weighted, labels, aged.weights, w, self.spec.max_gain if forgets else None)
        added = moments_about(self.origin, relative, aged.weights, weighted)
        if len(x) > n:
            added = side_by_side([added, moments_of(x[n:], aged.weights, complete=False)])
            self.profile.merge(profile_of(x[n:], labels, aged.weights, len(self.candidate.segments)))
        self.moments.merge(added)
        self.seen.append(_Seen(squared, labels, aged.weights, aged.factor))
        self.rows += x.shape[1]
        self._renew_metric()

    def _decay(self, factor: float) -> None:
        if factor != 1.0:
            self.step.decay(factor)
            self.moments.decay(factor)
            self.profile.decay(factor)

    def _renew_metric(self) -> None:
        if self.spec.unit_metric:
            return
        n = self.spec.n_weighted
        running = Moments(self.moments.weight[0], self.moments.mean[0], self.moments.m2[0])
        if not self.metric.settled:
            if self.rows < SETTLING_ROWS:
                self._set_metric(unsettled_metric(running, self.step.centers, self.metric.epoch))
                return
        else:
            weight = float(running.weight[0]) or 1.0
            if not leaves(running.m2[:n] / weight, self.lowest, self.highest):
                return
            if not is_off(running.variance()[:n], self.metric.variance[:n]):
                return
        self._set_metric(Metric(self.metric.epoch + 1, True, running.mean.copy(), running.variance()))
        self.renewal = self.metric
        self.seen = []

    def _histogram(self) -> Array:
        """Distances of the blocks since the metric was set, faded to the batch's end."""
        fading, weights = 1.0, list[Array]()
        for seen in reversed(self.seen):
            weights.append(seen.weights * fading if fading != 1.0 else seen.weights)
            fading *= seen.factor
        if not weights:
            return np.zeros(0)
        squared = np.concatenate([seen.squared for seen in self.seen])
        labels = np.concatenate([seen.labels for seen in self.seen])
        counts = histogram.count(squared, labels, np.concatenate(weights[::-1]), len(self.candidate.segments))
        return counts.ravel()

    def delta(self, base: ModelState, n_rows: int, last_time: float, digest: bytes) -> Delta:
        counts = self._histogram()
        cells = np.flatnonzero(counts)
        part = CandidateDelta(self.candidate.ids, self.step.delta(), self.profile, cells, counts[cells])
        added = Moments(self.moments.weight[1], self.moments.mean[1], self.moments.m2[1])
        return Delta(
            base.version, digest, base.metric.epoch, self.clock, last_time, self.age, n_rows, added, [part],
            self.renewal, None, events=n_rows, first_s=self.first_s, clipped=self.clipped, held_back=self.held_back,
        )  # fmt: skip


class _Seen(NamedTuple):
    """A block's distances: squared, labels, weights at its end, and how it faded everything before."""

    squared: Array
    labels: Ints
    weights: Array
    factor: float


def profile_of(extra: Array, labels: Ints, weights: Array, k: int) -> Profile:
    """Means by center of the profile features, NaN left out. IN extra (n_profile, n_rows), labels, weights."""
    out = Profile.empty(len(extra), k)
    for j, row in enumerate(extra):
        there = ~np.isnan(row)
        hits = sums_by_label(labels[there], weights[there], k)
        sums = sums_by_label(labels[there], weights[there] * row[there], k)
        out.weights[j] = hits
        out.means[j] = sums / np.where(hits > 0.0, hits, 1.0)
    return out

"""Learning: rows to a delta. Nothing here changes the model; `apply` does, when the delta comes back through the log.

A batch steps in blocks on a local copy, so that what is learned does not depend on how large a transaction was: each
block is assigned with the centers as the block before left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from streamseg.core.model.new_segments import places_of
from streamseg.core.model.records import CandidateDelta, Delta, TrialDelta, WarmRows
from streamseg.core.model.reservoir import ROWS, ROWS_EACH, Sample, merged, priorities, trimmed
from streamseg.core.model.spec import SETTLING_ROWS, ModelSpec
from streamseg.core.model.state import Metric, ModelState, Profile, profile_of, unsettled_metric
from streamseg.core.model.table import CLIPPED_AT, SCORE_HALF_LIFE
from streamseg.core.model.transitions import FAST_HALF_LIFE
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import BLOCK_ROWS, Step, clip_to_centers, nearest_label
from streamseg.core.numeric.decay import NEVER, Speeds, guarded_times
from streamseg.core.numeric.metric import RENEWAL_FACTOR, is_off, leaves
from streamseg.core.numeric.moments import Moments, moments_about, moments_of, side_by_side, stacked
from streamseg.core.numeric.portable_math import exp2_scalar
from streamseg.core.numeric.types import Array, Ints

# The mean by which an event's loss is clipped is taken for at least so much of what one center for all would lose.
_LEAST_MEAN = 1e-3


def block_edges(counter: int, n_rows: int, first: int = 0) -> list[int]:
    """Edges of blocks of `BLOCK_ROWS` over rows [first, first + n_rows), `counter` rows being in the open block."""
    inner = range(first + BLOCK_ROWS - counter % BLOCK_ROWS, first + n_rows, BLOCK_ROWS)
    return [first, *inner, first + n_rows]


class Sampled(NamedTuple):
    """Rows for the sample: places of each customer's latest row among the rows, and keys that stand for the customers."""

    places: Ints
    keys: Ints


def learn(
    state: ModelState,
    spec: ModelSpec,
    x: Array,
    w: Array,
    t: Array | None,
    edges: Sequence[int],
    digest: bytes = b"",
    sampled: Sampled | None = None,
    given: Ints | None = None,
) -> Delta:
    """The delta of rows. IN all; x (n_features, n_rows) with weighted features complete, w (n_rows,), t in seconds.

    `edges` are the block edges; `digest` is the state's, where a log wants it; `given` (n_rows,) the ids of the segments
    that an external model put the rows in.
    """
    local = _Local(state, spec)
    places = None if given is None else places_of(state, given)
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
            rows = slice(first, end)
            local.block(x[:, rows], w[rows], None if t is None else t[rows], None if places is None else places[None, rows])
    delta = local.delta(state, x.shape[1], last, digest)
    if sampled is not None and len(sampled.keys):
        delta.sample = _sample_of(state, spec, x, w, sampled)
    if given is not None:
        delta.fed = x[: spec.n_weighted]
    return delta


def _sample_of(state: ModelState, spec: ModelSpec, x: Array, w: Array, sampled: Sampled) -> Sample | None:
    """Those rows of a batch that the state's sample would keep, or could."""
    at = state.age + np.cumsum(w)[sampled.places]
    rows = merged(Sample.empty(len(x)), Sample(sampled.keys, priorities(sampled.keys, at), x[:, sampled.places]))
    known, centers, inverse = state.sample, state.tagging.centers.centers, state.metric.inverse(spec)
    n = spec.n_weighted
    labels, _ = nearest_label(rows.x[:n], centers, inverse)
    spread = clip_spread(state.metric, spec)
    if spread is not None:
        rows.x[:n] = clip_to_centers(rows.x[:n], labels, centers, spread)
    if known.n_rows > ROWS:
        # The last that is in among all, and among each segment's.
        lowest = np.full(centers.shape[1], known.priority[ROWS - 1])
        of_known, _ = nearest_label(known.x[:n], centers, inverse)
        for label in range(centers.shape[1]):
            places = np.flatnonzero(of_known == label)
            enough = len(places) >= ROWS_EACH
            lowest[label] = min(lowest[label], known.priority[places[ROWS_EACH - 1]] if enough else -np.inf)
        kept = rows.priority > lowest[labels]
        rows, labels = rows.take(kept), labels[kept]
    rows = trimmed(rows, labels, centers.shape[1])
    return rows if rows.n_rows else None


def collect(
    state: ModelState,
    spec: ModelSpec,
    rows: WarmRows,
    events: int,
    age: float,
    t: Array | None,
    digest: bytes = b"",
    fed: Array | None = None,
) -> Delta:
    """The delta of a batch of a warm-up. IN all; `events` accepted events of weight `age` at times `t` (seconds).

    `fed`: their rows, for an external model.
    """
    clock, last, first, held = state.clock, state.last_time, None, 0
    if t is not None and len(t):
        last = float(t[-1])
        guarded, ahead = guarded_times(t, clock, state.last_time, spec.max_ahead)
        first, clock = float(guarded[0]), max(clock, float(guarded.max()))
        held = int(np.count_nonzero(ahead))
    d = len(spec.features)
    return Delta(
        state.version, digest, state.metric.epoch, clock, last, age, events, Moments.empty(d), [],
        Profile.empty(d - spec.n_weighted, 0), np.zeros(0, dtype=np.int64), np.zeros(0), None, rows,
        events=events, first_s=first, held_back=held, fed=fed,
    )  # fmt: skip


def clip_spread(metric: Metric, spec: ModelSpec) -> Array | None:
    """How far from its center a row is learned at most, (n_weighted,); None where that guard is off. IN both."""
    if spec.clip_sigmas is None or not metric.settled:
        return None
    inverse = metric.inverse(spec)
    scaled = inverse > 0.0
    safe = np.where(scaled, inverse, 1.0)
    return np.where(scaled, spec.clip_sigmas * np.sqrt(spec.feature_weight / safe), np.inf)


class _Local:
    """The candidates and the metric on their way through the blocks of one batch."""

    def __init__(self, state: ModelState, spec: ModelSpec) -> None:
        self.spec = spec
        self.renewal: Metric | None = None
        self.champion, self.trial = state.champion, state.trial
        self.candidates = state.candidates
        self.origin = state.metric.origin[: spec.n_weighted]
        speeds = [spec.speeds[candidate.speed] for candidate in state.candidates]
        common = spec.common_half_lives
        self.bank = Step([candidate.centers for candidate in state.candidates], self.origin, common)
        self.challenger = None
        # Place of the challenger's speed among those of the candidates, which stand in their order.
        self.own = slice(0)
        if self.trial is not None:
            own = self.trial.candidate.speed
            self.own = slice(own, own + 1)
            self.challenger = Step([self.trial.candidate.centers], self.origin, common[self.own])
        # The first is that of what all share.
        self.speeds = Speeds([spec.forgetting, *speeds])
        self.profile = Profile.empty(len(spec.features) - spec.n_weighted, self.bank.k)
        # Two rows: the running moments, and what the batch adds to them.
        self.moments = stacked([state.moments, Moments.empty(len(spec.features))])
        self.seen: list[_Seen] = []
        self.score = _Score(state, spec)
        self.clock = state.clock
        self.first_s: float | None = None
        self.age = 0.0
        self.rows = state.rows
        self.clipped = 0
        self.held_back = 0
        self._set_metric(state.metric)

    def _set_metric(self, metric: Metric) -> None:
        spec = self.spec
        self.metric = metric
        self.inverse = metric.inverse(spec)
        variance = metric.variance[: spec.n_weighted]
        self.lowest, self.highest = variance / RENEWAL_FACTOR, variance * RENEWAL_FACTOR
        self.spread = clip_spread(metric, spec)
        # Nearer than this, no feature can be beyond the clip: most blocks need no more than this look.
        sigmas = np.inf if self.spread is None or spec.clip_sigmas is None else spec.clip_sigmas
        self.clip_above = sigmas * sigmas * float(spec.feature_weight.min())

    def block(self, x: Array, w: Array, t: Array | None, given: Ints | None = None) -> None:
        """Learn one block, having assigned it with what stands now. IN all.

        `given` (1, n_rows): places of the centers that the rows belong to; -1 for one that is not there yet.
        """
        n, c = self.spec.n_weighted, self.champion
        rows = x[:n]
        labels, squared = self.bank.nearest(rows, self.inverse) if given is None else self._given(rows, given)
        of_challenger = self.challenger.nearest(rows, self.inverse) if self.challenger is not None else None
        aged = self.speeds.age(w, t, self.clock)
        self.clock = aged.clock
        self.age += float(np.add.reduce(w))
        weights, factors = aged.weights[1:], aged.factors[1:]
        shared, factor = aged.weights[0], float(aged.factors[0])
        learned, of_segment = w, shared
        if given is not None:
            # What belongs to no segment yet counts for what all share, and for nothing that is told by segment.
            here = given[0] >= 0
            weights, learned, of_segment = (np.where(here, each, 0.0) for each in (weights, w, shared))
        self.score.add(squared, learned, c, None if of_challenger is None else of_challenger[1])
        relative = self._relative(self.bank, rows, labels, squared)
        mine = relative if relative.ndim == 2 else relative[:, c]
        self.bank.decay(factors)
        self.bank.learn(relative, labels, weights, learned, self.spec.max_gains)
        if self.challenger is not None and of_challenger is not None:
            relative = self._relative(self.challenger, rows, *of_challenger)
            self.challenger.decay(factors[self.own])
            self.challenger.learn(relative, of_challenger[0], weights[self.own], w, self.spec.max_gains[self.own])
        if factor != 1.0:
            self.moments.decay(factor)
            self.profile.decay(factor)
        added = moments_about(self.origin, mine, shared, mine * shared)
        if len(x) > n:
            added = side_by_side([added, moments_of(x[n:], shared, complete=False)])
            self.profile.merge(profile_of(x[n:], labels[c], of_segment, self.bank.k))
        self.moments.merge(added)
        self.seen.append(_Seen(squared[c], labels[c], of_segment, factor))
        self.rows += x.shape[1]
        self._renew_metric()

    def _given(self, rows: Array, given: Ints) -> tuple[Ints, Array]:
        """As `Step.nearest`. A row whose center is not there yet is put at the first one, with no distance."""
        labels = np.maximum(given, 0)
        off = rows - self.bank.centers[:, labels[0]]
        squared = np.add.reduce(off * off * self.inverse[:, None], axis=0)
        return labels, np.where(given >= 0, squared[None], 0.0)

    def _relative(self, step: Step, rows: Array, labels: Ints, squared: Array) -> Array:
        """Rows relative to the origin, (n_weighted, n_rows), or clipped by candidate: (n_weighted, n_candidates, n_rows)."""
        if self.spread is None or np.maximum.reduce(squared, axis=None) <= self.clip_above:
            return rows - self.origin[:, None]
        clipped = [clip_to_centers(rows, labels[i], step.centers_of(i), self.spread) for i in range(len(labels))]
        if step is self.bank:
            self.clipped += int(np.count_nonzero(clipped[self.champion] != rows))
        relative: Array = np.stack(clipped, axis=1) - self.origin[:, None, None]
        return relative

    def _renew_metric(self) -> None:
        if self.spec.unit_metric:
            return
        n = self.spec.n_weighted
        running = Moments(self.moments.weight[0], self.moments.mean[0], self.moments.m2[0])
        if not self.metric.settled:
            if self.rows < SETTLING_ROWS:
                centers = self.bank.centers_of(self.champion)
                self._set_metric(unsettled_metric(running, centers, self.metric.epoch))
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
        return histogram.count(squared, labels, np.concatenate(weights[::-1]), self.bank.k).ravel()

    def delta(self, base: ModelState, n_rows: int, last_time: float, digest: bytes) -> Delta:
        counts = self._histogram()
        cells = np.flatnonzero(counts)
        score = self.score
        parts = [
            CandidateDelta(candidate.id, part, loss, self.bank.together(c, candidate.moved))
            for c, (candidate, part, loss) in enumerate(
                zip(self.candidates, self.bank.deltas(), score.added.tolist(), strict=True)
            )
        ]
        trial = None
        if self.challenger is not None and self.trial is not None:
            (part,) = self.challenger.deltas()
            together = self.challenger.together(0, self.trial.candidate.moved)
            trial = TrialDelta(CandidateDelta(self.trial.candidate.id, part, score.of_challenger, together), score.beside_it)
        added = Moments(self.moments.weight[1], self.moments.mean[1], self.moments.m2[1])
        return Delta(
            base.version, digest, base.metric.epoch, self.clock, last_time, self.age, n_rows, added, parts,
            self.profile, cells, counts[cells], self.renewal, None, trial, score.added_weight, score.fast_loss,
            score.fast_weight, score.fast_squares, events=n_rows, first_s=self.first_s, clipped=self.clipped,
            held_back=self.held_back, losses=np.array(score.parts).reshape(-1, 2).T.copy(),
        )  # fmt: skip


class _Score:
    """What candidates lose on events that they have not learned yet; one event counts for at most ten times the mean."""

    def __init__(self, state: ModelState, spec: ModelSpec) -> None:
        self._loss, self._weight = state.tagging.loss, state.scored_weight
        # Of one center for all: until there is a mean, and a little of it where rows lie on their centers.
        self._of_one = float(spec.feature_weight.sum())
        self.added = np.zeros(len(state.candidates))
        self.added_weight = self.fast_loss = self.fast_weight = self.fast_squares = 0.0
        self.of_challenger = self.beside_it = 0.0
        # Events and sums of their losses, by halves of blocks.
        self.parts: list[tuple[int, float]] = []

    def add(self, squared: Array, w: Array, champion: int, of_challenger: Array | None) -> None:
        """One block's squared distances, (n_candidates, n_rows). IN all; a row of no weight does not count."""
        mean = self._loss / self._weight if self._weight > 0.0 else 0.0
        most = CLIPPED_AT * (max(mean, _LEAST_MEAN * self._of_one) if self._weight > 0.0 else self._of_one)
        clipped = np.minimum(squared, most)
        losses = np.add.reduce(clipped * w, axis=1)
        middle = len(w) // 2
        for half in (slice(middle), slice(middle, None)):
            self.parts.append((int(np.count_nonzero(w[half])), float(np.add.reduce(clipped[champion, half][w[half] > 0.0]))))
        weight, loss = float(np.add.reduce(w)), float(losses[champion])
        slow, fast = exp2_scalar(-len(w) / SCORE_HALF_LIFE), exp2_scalar(-len(w) / FAST_HALF_LIFE)
        off = (clipped[champion] - mean) * w
        self.fast_squares = self.fast_squares * fast * fast + float(np.add.reduce(off * off))
        self._loss, self._weight = self._loss * slow + loss, self._weight * slow + weight
        self.added = self.added * slow + losses
        self.added_weight = self.added_weight * slow + weight
        self.fast_loss, self.fast_weight = self.fast_loss * fast + loss, self.fast_weight * fast + weight
        if of_challenger is not None:
            self.of_challenger += float(np.add.reduce(np.minimum(of_challenger[0], most) * w))
            self.beside_it += loss


class _Seen(NamedTuple):
    """A block's distances: squared, labels, weights at its end, and how it faded everything before."""

    squared: Array
    labels: Ints
    weights: Array
    factor: float

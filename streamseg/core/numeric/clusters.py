"""Assignment and learning of k centers in feature units.

Learning within a micro-batch happens on a `Step`, which keeps each center in factored form::

    center = (prior * start + sums) / (prior + hits)          sums relative to `origin`

`start` is the center of the model version that the batch was computed from, `prior` its weight, `hits` and `sums` what
the batch added. Decay scales prior, hits and sums alike, so blocks compose, and in the end `hits` and `sums` *are* the
delta: applying it to `start` gives what the step arrived at, applying it to a center that other workers moved in the
meantime merges the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from streamseg.core.numeric.metric import squared_distances
from streamseg.core.numeric.portable_math import exp2_scalar
from streamseg.core.numeric.types import Array, Flags, Ints, sums_by_label

BLOCK_ROWS = 250
# Rows assigned at a time: what they need stays in the second-level cache.
_CHUNK_ROWS = 5_000
# From so many rows on, and up to so many clusters, labels are found by comparing row by row.
_MANY_ROWS, _FEW = 1_000, 16


class Nearest(NamedTuple):
    """For each row: the nearest center, the next one, and both squared distances.

    With one center `runner_up` is -1 and `runner_up_squared` infinite.
    """

    labels: Ints
    squared: Array
    runner_up: Ints
    runner_up_squared: Array

    def take(self, places: Ints | slice) -> Nearest:
        """Some of the rows, in the order of `places`."""
        return Nearest(self.labels[places], self.squared[places], self.runner_up[places], self.runner_up_squared[places])


def nearest_label(x: Array, centers: Array, inverse: Array) -> tuple[Ints, Array]:
    """Nearest center and its squared distance; of equal ones the first. IN all; shapes as in `squared_distances`."""
    return _smallest(squared_distances(x, centers, inverse))


def _smallest(squared: Array) -> tuple[Ints, Array]:
    """Place and value of the smallest of each column; of equal ones the first. IN squared (k, n_rows)."""
    smallest: Array = np.minimum.reduce(squared, axis=0)
    if len(squared) > _FEW or squared.shape[1] < _MANY_ROWS:
        return squared.argmin(axis=0), smallest
    # `argmin` across rows is slow; comparing row by row is not.
    labels = np.zeros(squared.shape[1], dtype=np.int64)
    for i in range(len(squared) - 1, 0, -1):
        np.copyto(labels, i, where=squared[i] == smallest)
    np.copyto(labels, 0, where=squared[0] == smallest)
    return labels, smallest


def nearest(x: Array, centers: Array, inverse: Array) -> Nearest:
    """The two nearest centers of each row. IN x (n_features, n_rows), centers (n_features, k), inverse (n_features,)."""
    n_rows = x.shape[1]
    out = Nearest(np.empty(n_rows, np.int64), np.empty(n_rows), np.full(n_rows, -1), np.full(n_rows, np.inf))
    for first in range(0, n_rows, _CHUNK_ROWS):
        rows = slice(first, min(first + _CHUNK_ROWS, n_rows))
        squared = squared_distances(x[:, rows], centers, inverse)
        labels, out.squared[rows] = _smallest(squared)
        out.labels[rows] = labels
        if len(squared) > 1:
            squared[labels, np.arange(squared.shape[1])] = np.inf
            out.runner_up[rows], out.runner_up_squared[rows] = _smallest(squared)
    return out


def margin(near: Nearest, between: Array) -> Array:
    """(d2^2 - d1^2) / |c1 - c2|^2, clipped to 0..1: 0 halfway, 1 at the center or beyond; NaN with one center.

    IN near, between (k, k) squared distances between centers.
    """
    if len(between) < 2:
        return np.full(len(near.labels), np.nan)
    apart = between[near.labels, near.runner_up]
    share = (near.runner_up_squared - near.squared) / np.where(apart > 0.0, apart, np.inf)
    return np.minimum(np.maximum(share, 0.0), 1.0)


def driver_shares(x: Array, near: Nearest, centers: Array, inverse: Array) -> Array:
    """Each feature's share of what speaks for this center and against the next, (n_features, n_rows). IN all.

    A feature speaks for this center by how much nearer it is in it, squared; one that speaks for the other has share 0.
    Shares are between 0 and 1 and add up to 1, or are all 0 where nothing speaks for it.
    """
    first = x - centers[:, near.labels]
    second = x - centers[:, near.runner_up]
    second *= second
    first *= first
    second -= first
    second *= inverse[:, None]
    np.maximum(second, 0.0, out=second)
    total = np.add.reduce(second, axis=0)
    second /= np.where(total > 0.0, total, 1.0)
    return second


def clip_to_centers(x: Array, labels: Ints, centers: Array, spread: Array) -> Array:
    """Rows pulled to within `spread` (n_features,) of their center. IN all; NumPy's `inf` turns a feature's clip off."""
    reference = centers.take(labels, axis=1)
    band = spread[:, None]
    clipped: Array = np.maximum(x, reference - band)
    np.minimum(clipped, reference + band, out=clipped)
    return clipped


class Centers(msgspec.Struct):
    """k centers: `centers` (n_features, k), `weights` (k,) decayed, `learned` (k,) weight ever learned, not decayed."""

    centers: Array
    weights: Array
    learned: Array

    def copy(self) -> Centers:
        return Centers(self.centers.copy(), self.weights.copy(), self.learned.copy())


def means_of(x: Array, labels: Ints, weights: Array, k: int) -> Centers:
    """Centers of labeled rows. IN x (n_features, n_rows), labels, weights (n_rows,)."""
    hits = sums_by_label(labels, weights, k)
    origin = x[:, 0]
    sums = np.array([sums_by_label(labels, weights * (row - o), k) for row, o in zip(x, origin, strict=True)])
    return Centers(origin[:, None] + sums / np.where(hits > 0.0, hits, 1.0), hits, hits.copy())


class CenterDelta(msgspec.Struct):
    """What rows add to k centers.

    Attributes:
        origin: (n_features,), what `sums` are relative to, where all centers had moved by nothing together.
        hits: (k,) decayed weight of the rows; sums: (n_features, k) of weight times (row - origin), less how far all centers
            had moved together by then.
        floor: (k,) prior weight that the guard `max_gain` asks for, 0 where it did not bind.
        learned: (k,) weight, not decayed.
    """

    origin: Array
    hits: Array
    sums: Array
    floor: Array
    learned: Array

    def widened(self, k: int) -> CenterDelta:
        """For k centers, of which the last ones came after it."""
        n = k - len(self.hits)
        if not n:
            return self
        hits, floor, learned = (np.concatenate([each, np.zeros(n)]) for each in (self.hits, self.floor, self.learned))
        return CenterDelta(self.origin, hits, np.hstack([self.sums, np.zeros((len(self.sums), n))]), floor, learned)


class Together(msgspec.Struct):
    """How all centers of a candidate moved together in a batch.

    Attributes:
        shift: (n_features,) in the batch; base: before it, since the candidate began.
        followed: share of what they were off that they followed.
    """

    shift: Array
    base: Array
    followed: float


# Next to any other weight nothing, and still a number.
_LEAST_HITS = 1e-200


class Step:
    """Candidates of k centers each on their way through the blocks of one micro-batch, all at once.

    `centers` (n_features, n_candidates * k) is where they are now; columns c * k to (c + 1) * k are candidate c's, and so
    are places of all else that has one for each center. What a candidate becomes does not depend on who is beside it.
    """

    def __init__(self, starts: Sequence[Centers], origin: Array, common: Array | None = None) -> None:
        """IN starts, of equal k, origin (n_features,), common (n_candidates,): half-lives of following together."""
        self.n_candidates, self.k = len(starts), len(starts[0].weights)
        self.start = starts[0] if len(starts) == 1 else side_by_side(starts)
        self.centers = self.start.centers.copy()
        # Where they are but for what they moved together.
        self._apart = self.centers
        self.origin = origin
        self.prior = self.start.weights.copy()
        self.hits = np.zeros_like(self.start.weights)
        self.sums = np.zeros_like(self.start.centers)
        self.learned = np.zeros_like(self.start.weights)
        # How far all centers of a candidate have moved together, and by which share they did not follow.
        self.shift = np.zeros((len(origin), self.n_candidates))
        self.behind = np.ones(self.n_candidates)
        self._common = np.full(self.n_candidates, np.inf) if common is None else common
        self._following = np.flatnonzero(np.isfinite(self._common)).tolist()
        self.raised = np.zeros(len(self.start.weights), dtype=np.bool_)
        self._offset = self.start.centers - origin[:, None]
        self._cell_offset = len(self.start.weights) * np.arange(len(origin))[:, None]
        self._first = self.k * np.arange(self.n_candidates)[:, None]

    def nearest(self, x: Array, inverse: Array) -> tuple[Ints, Array]:
        """Each candidate's nearest center (0 to k - 1) and its squared distance, (n_candidates, n_rows). IN all."""
        squared = squared_distances(x, self.centers, inverse)
        if self.n_candidates == 1:
            labels, smallest = _smallest(squared)
            return labels[None], smallest[None]
        squared = squared.reshape(self.n_candidates, self.k, -1)
        smallest = np.minimum.reduce(squared, axis=1)
        labels = np.zeros(smallest.shape, dtype=np.int64)
        for i in range(self.k - 1, -1, -1):
            np.copyto(labels, i, where=squared[:, i] == smallest)
        return labels, smallest

    def decay(self, factors: Array) -> None:
        """Fade prior and block sums alike by each candidate's factor, (n_candidates,); no center moves."""
        if (factors != 1.0).any():
            each = np.repeat(factors, self.k) if self.n_candidates > 1 else factors
            self.prior *= each
            # Over a thousand half-lives hits would fade to nothing, and with them where their rows were.
            faded = (self.hits > 0.0) & (self.hits * each < _LEAST_HITS)
            if faded.any():
                each = np.where(faded, _LEAST_HITS / np.where(faded, self.hits, 1.0), each)
            self.hits *= each
            self.sums *= each

    def learn(self, relative: Array, labels: Ints, weights: Array, w: Array, max_gain: Array) -> None:
        """Move each hit center to the weighted mean of what it has seen. IN all.

        `relative` (n_features, n_rows), or (n_features, n_candidates, n_rows), are rows relative to `origin`; `labels` and
        `weights`, decayed to the block's end, are (n_candidates, n_rows); `w` (n_rows,) is not decayed; `max_gain`
        (n_candidates,) is infinite where that guard is off. A center without hits does not move by one bit.
        """
        k = len(self.prior)
        flat = (labels + self._first).ravel()
        hits = sums_by_label(flat, weights.ravel(), k)
        hit = hits > 0.0
        if (max_gain < np.inf).any():
            self._raise_prior(hit, np.repeat(max_gain, self.k))
        weighted = (relative if relative.ndim == 3 else relative[:, None, :]) * weights
        sums = sums_by_label((flat + self._cell_offset).ravel(), weighted.ravel(), k * len(weighted)).reshape(-1, k)
        weight = hits if w is weights else sums_by_label(flat, np.broadcast_to(w, labels.shape).ravel(), k)
        for c in self._following:
            mine = slice(c * self.k, (c + 1) * self.k)
            self._follow(c, relative if relative.ndim == 2 else relative[:, c], w, weight[mine])
            sums[:, mine] -= self.shift[:, c, None] * hits[mine]
        self.sums += sums
        self.hits += hits
        self.learned += weight
        total = self.prior + self.hits
        if hit.all():
            self._apart = self.start.centers + (self.sums - self._offset * self.hits) / total
        else:
            moved = self.start.centers + (self.sums - self._offset * self.hits) / np.where(hit, total, 1.0)
            self._apart = np.where(hit, moved, self._apart)
        self.centers = self._apart
        if self._following:
            self.centers = self._apart.copy()
            for c in self._following:
                self.centers_of(c)[:] += self.shift[:, c, None]

    def _follow(self, c: int, relative: Array, w: Array, weight: Array) -> None:
        """Move all centers of candidate c by what its rows are off on average, as far as its half-life of that says.

        What all segments do together is told from many more rows than what each does.
        """
        total = float(np.add.reduce(w))
        if total <= 0.0:
            return
        centers = np.add.reduce((self.centers_of(c) - self.origin[:, None]) * weight, axis=1)
        stays = exp2_scalar(-total / float(self._common[c]))
        self.shift[:, c] += (1.0 - stays) * ((np.add.reduce(relative * w, axis=1) - centers) / total)
        self.behind[c] *= stays

    def _raise_prior(self, hit: Flags, max_gain: Array) -> None:
        """Hold the gain of one event to max(1 / n, max_gain): a center of n events weighs at least min(n, 1 / gain - 1)."""
        total = self.prior + self.hits
        floor = np.minimum(self.start.learned + self.learned, np.maximum(1.0 / max_gain - 1.0, 0.0))
        low = hit & (total < floor)
        if low.any():
            faded = low & (total <= 0.0)
            scale = np.where(low & ~faded, floor / np.where(total > 0.0, total, 1.0), 1.0)
            self.prior = np.where(faded, floor, self.prior * scale)
            self.hits *= scale
            self.sums *= scale
            self.raised |= low

    def together(self, candidate: int, base: Array) -> Together | None:
        """How all centers of a candidate moved together; None for one that does not follow so. `base`: as in `Together`."""
        if candidate not in self._following:
            return None
        return Together(self.shift[:, candidate].copy(), base, 1.0 - float(self.behind[candidate]))

    def deltas(self) -> list[CenterDelta]:
        """What the rows added to each candidate."""
        floor = np.where(self.raised, self.prior, 0.0)
        places = [slice(c * self.k, (c + 1) * self.k) for c in range(self.n_candidates)]
        return [
            CenterDelta(self.origin, self.hits[p], np.ascontiguousarray(self.sums[:, p]), floor[p], self.learned[p])
            for p in places
        ]

    def centers_of(self, candidate: int) -> Array:
        return self.centers[:, candidate * self.k : (candidate + 1) * self.k]


def side_by_side(parts: Sequence[Centers]) -> Centers:
    return Centers(
        np.concatenate([part.centers for part in parts], axis=1),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.learned for part in parts]),
    )


def apply_together(
    state: Centers, at: Array, delta: CenterDelta, moved: Together, state_factor: float, delta_factor: float
) -> Array:
    """As `apply_delta`, of centers that have moved by `at` (n_features,) together. INOUT state. Returns where that is now.

    Each is merged where nothing had moved together. What other workers' batches have followed meanwhile was the same shift,
    so it is not followed twice.
    """
    state.centers = state.centers - at[:, None]
    apply_delta(state, msgspec.structs.replace(delta, origin=delta.origin - moved.base), state_factor, delta_factor)
    now: Array = at + moved.shift - moved.followed * (at - moved.base)
    state.centers = state.centers + now[:, None]
    return now


def apply_delta(state: Centers, delta: CenterDelta, state_factor: float, delta_factor: float) -> None:
    """Merge a delta into centers. INOUT state, IN delta; the factors bring both to their common clock."""
    prior = np.maximum(state.weights * state_factor, delta.floor * delta_factor)
    hits = delta.hits * delta_factor
    hit = hits > 0.0
    total = np.where(hit, prior + hits, 1.0)
    offset = state.centers - delta.origin[:, None]
    moved = state.centers + (delta.sums * delta_factor - offset * hits) / total
    state.centers = np.where(hit, moved, state.centers)
    state.weights = np.where(hit, prior + hits, state.weights * state_factor)
    state.learned = state.learned + delta.learned

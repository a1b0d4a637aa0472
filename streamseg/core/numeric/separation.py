"""The valley gate: two centers are two segments only if fewer customers are between them than near the sparser of them.

Loss across numbers of centers means nothing: more centers always lose less. The gate looks at density instead. For each pair
of neighboring centers the rows of both are projected onto the line from one (0) to the other (1), and those near either end
are counted, and those near some point between.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamseg.core.numeric.metric import squared_distances_between
from streamseg.core.numeric.types import Array, Flags, Ints

# A pair passes below this ratio of the least count between to the smaller count at an end.
GATE = 0.6
_NEAR = 0.12
LEAST_AT_AN_END = 8
# Centers are apart by at least so many standard deviations of their own rows along the line. The halves of one normal
# cluster are by 2.7, so that a valley which chance dug between them does not count; two clusters at 4 sigma are by 4.
_APART = 3.3
_BETWEEN = (0.3, 0.4, 0.5, 0.6, 0.7)


def neighbors(centers: Array, inverse: Array) -> Flags:
    """Pairs of which no third center is nearer to their midpoint than they are, (k, k), symmetric. IN all."""
    k = centers.shape[1]
    between = squared_distances_between(centers, inverse)
    # |m - c|^2 of the midpoint m of i and j is (|i - c|^2 + |j - c|^2) / 2 - |i - j|^2 / 4.
    middle = (between[:, None, :] + between[None, :, :]) / 2.0 - between[:, :, None] / 4.0
    third = ~(np.eye(k, dtype=np.bool_)[:, None, :] | np.eye(k, dtype=np.bool_)[None, :, :])
    nearest = np.where(third, middle, np.inf).min(axis=2)
    pairs: Flags = (between > 0.0) & (nearest >= between / 4.0 * (1.0 - 1e-9))
    return pairs


def valley_ratios(x: Array, labels: Ints, centers: Array, inverse: Array, least_at_an_end: int = LEAST_AT_AN_END) -> Array:
    """Least count between over the smaller count at an end, for each pair of neighbors, (k, k), symmetric; NaN elsewhere.

    IN x (n_features, n_rows), labels (n_rows,), centers (n_features, k), inverse (n_features,). With fewer rows near an end
    than `least_at_an_end` a pair does not pass, as that none are between says nothing then.
    """

    def ratio(first: Array, second: Array) -> float:
        if _apart(first, second) < _APART:
            return np.inf
        return float(np.nan_to_num(_ratio(first, second, least_at_an_end), nan=np.inf))

    return _of_neighbors(ratio, x, labels, centers, inverse)


def crowding(x: Array, labels: Ints, centers: Array, inverse: Array) -> Array:
    """The same ratios of pairs that are as near to each other as parts of one cluster; NaN of others. IN all."""

    def ratio(first: Array, second: Array) -> float:
        return _ratio(first, second, LEAST_AT_AN_END) if _apart(first, second) < _APART else np.nan

    return _of_neighbors(ratio, x, labels, centers, inverse)


def _of_neighbors(ratio: Callable[[Array, Array], float], x: Array, labels: Ints, centers: Array, inverse: Array) -> Array:
    """(k, k), symmetric; NaN where two are no neighbors. `ratio`: of the places of both centers' rows on the line."""
    k = centers.shape[1]
    out = np.full((k, k), np.nan)
    for i, j in np.argwhere(np.triu(neighbors(centers, inverse))).tolist():
        line = (centers[:, j] - centers[:, i]) * inverse
        first, second = (_along(x[:, labels == c], centers[:, i], line, centers[:, j]) for c in (i, j))
        out[i, j] = out[j, i] = ratio(first, second)
    return out


def _along(rows: Array, one: Array, line: Array, other: Array) -> Array:
    """Where rows are on the line from `one` (0) to `other` (1)."""
    length = float(np.add.reduce(line * (other - one)))
    place: Array = np.add.reduce((rows - one[:, None]) * line[:, None], axis=0) / length
    return place


def _apart(first: Array, second: Array) -> float:
    """How far the centers are from each other, in standard deviations of their own rows along the line. IN as below."""
    spread = np.sqrt((first.var() + second.var()) / 2.0) if len(first) and len(second) else np.inf
    return float(1.0 / spread) if spread > 0.0 else np.inf


def _ratio(first: Array, second: Array, least_at_an_end: int) -> float:
    """IN both: places on the line of the rows of either center."""
    place = np.concatenate([first, second])

    def near(point: float) -> int:
        return int(np.count_nonzero(np.abs(place - point) < _NEAR))

    end = min(near(0.0), near(1.0))
    if end < least_at_an_end:
        return np.nan
    return (min(near(point) for point in _BETWEEN) + 0.5) / (end + 0.5)


def passes(ratios: Array, gate: float = GATE) -> Flags:
    """Which centers have a valley around them: all of their pairs are below the gate, (k,). IN `valley_ratios`' result."""
    return np.logical_not((ratios >= gate).any(axis=1))


def dithered(x: Array, seed: int, levels: int = 30) -> Array:
    """Rows in which features of few levels are spread over the gaps between them, so that levels are no valleys. IN x."""
    rng = np.random.default_rng(seed)
    out = x.copy()
    for j, row in enumerate(x):
        found, place = np.unique(row, return_inverse=True)
        if 1 < len(found) <= levels:
            gaps = np.diff(found)
            below, above = np.concatenate([gaps[:1], gaps])[place] / 2.0, np.concatenate([gaps, gaps[-1:]])[place] / 2.0
            out[j] = row - below + rng.random(len(row)) * (below + above)
    return out

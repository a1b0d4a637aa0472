"""The metric: scaling lives in the distance, so a scaler that moves moves no center.

d^2(x, c) = sum over features of feature_weight (x - c)^2 / variance. The variances are frozen for an epoch; `is_off` says
when running moments have left them far enough behind.
"""

from __future__ import annotations

import numpy as np

from streamseg.core.numeric.types import Array, Ints, sums_by_label

RENEWAL_FACTOR = 1.5
# Less is no spread: over it the squares of the largest values that are taken, 1e100, would overflow.
_FLAT = 1e-100
# Up to this many differences are taken at once: they stay in the first-level cache and cost fewer calls.
_CACHED = 16_384


def shared_variance(variance: Array, groups: Ints) -> Array:
    """Variance (n_features,) with the sum over a group for each of its members. IN variance, groups.

    The categories of a one-hot field are one group: their variances p (1 - p) add up.
    """
    if len(groups) == 0 or int(groups[-1]) == len(groups) - 1:
        return variance
    return sums_by_label(groups, variance, 0)[groups]


def inverse_of(variance: Array, feature_weight: Array) -> Array:
    """What multiplies a squared difference, (n_features,): weight / variance, and 0 where there is next to none."""
    flat = variance < _FLAT
    return np.where(flat, 0.0, feature_weight / np.where(flat, 1.0, variance))


def leaves(variance: Array, lowest: Array, highest: Array) -> bool:
    """Whether any variance is outside its bounds. IN all, (n_features,)."""
    return bool(((variance > highest) | (variance < lowest)).any())


def is_off(variance: Array, frozen: Array) -> bool:
    """Whether any running variance has left the frozen one by `RENEWAL_FACTOR` either way. IN both, (n_features,)."""
    grown = variance > frozen * RENEWAL_FACTOR
    shrunk = variance * RENEWAL_FACTOR < frozen
    return bool((grown | shrunk).any())


def squared_distances(x: Array, centers: Array, inverse: Array) -> Array:
    """d^2 of shape (n_clusters, n_rows). IN x (n_features, n_rows), centers (n_features, n_clusters), inverse.

    Features are added in their order, one rounding each: no BLAS, no fused multiply-add.
    """
    if x.shape[0] * x.shape[1] * centers.shape[1] <= _CACHED:
        parts = x[:, None, :] - centers[:, :, None]
        parts *= parts
        parts *= inverse[:, None, None]
        total: Array = parts[0]
        for part in parts[1:]:
            total += part
        return total
    total = np.zeros((centers.shape[1], x.shape[1]))
    part = np.empty_like(total)
    for row, center, scale in zip(x, centers, inverse, strict=True):
        np.subtract(row[None, :], center[:, None], out=part)
        np.multiply(part, part, out=part)
        np.multiply(part, scale, out=part)
        np.add(total, part, out=total)
    return total


def squared_distances_between(centers: Array, inverse: Array) -> Array:
    """d^2 between all pairs of centers, (n_clusters, n_clusters). IN centers (n_features, n_clusters), inverse."""
    return squared_distances(centers, centers, inverse)

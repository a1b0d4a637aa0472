"""Weighted running moments (weight, mean, M2) with exact merge.

M2 is the weighted sum of squared deviations from the mean. Parts are merged by Chan, Golub and LeVeque (1979), which
subtracts means before it squares: a feature of size 1e9 keeps its digits, and a variance is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from streamseg.core.numeric.types import Array

# A spread below this share of the mean's size is rounding, not variance.
_RELATIVE_FLOOR = 1e-12


class Moments(msgspec.Struct):
    """Moments of each feature: `weight`, `mean`, `m2`, each of shape (n_features,), or (n, n_features) for n of them."""

    weight: Array
    mean: Array
    m2: Array

    @classmethod
    def empty(cls, n_features: int) -> Moments:
        return cls(np.zeros(n_features), np.zeros(n_features), np.zeros(n_features))

    def copy(self) -> Moments:
        return Moments(self.weight.copy(), self.mean.copy(), self.m2.copy())

    def decay(self, factor: float) -> None:
        """Fade everything seen so far. INOUT self."""
        if factor != 1.0:
            self.weight *= factor
            self.m2 *= factor

    def merge(self, other: Moments) -> None:
        """Add what `other` saw. INOUT self, IN other. A side of weight zero changes nothing."""
        total = self.weight + other.weight
        if self.weight.all() and other.weight.all():
            share = other.weight / total
            gap = other.mean - self.mean
            self.mean = self.mean + gap * share
            self.m2 = self.m2 + (other.m2 + gap * gap * (self.weight * share))
            self.weight = total
            return
        safe = np.where(total > 0.0, total, 1.0)
        share = other.weight / safe
        gap = np.where(self.weight > 0.0, other.mean - self.mean, 0.0)
        start = np.where(self.weight > 0.0, self.mean, other.mean)
        seen = other.weight > 0.0
        self.mean = np.where(seen, start + gap * share, self.mean)
        self.m2 = np.where(seen, self.m2 + (other.m2 + gap * gap * (self.weight * share)), self.m2)
        self.weight = total

    def variance(self) -> Array:
        """Population variance (ddof 0), shape (n_features,); 0 where it is only rounding."""
        variance = self.m2 / np.where(self.weight > 0.0, self.weight, 1.0)
        floor = _RELATIVE_FLOOR * self.mean
        return np.where(variance > floor * floor, variance, 0.0)


def moments_about(origin: Array, relative: Array, w: Array, weighted: Array) -> Moments:
    """Moments of complete rows that are relative to `origin` (n_features,) already.

    IN relative (n_features, n_rows), w (n_rows,), weighted = relative * w. Two passes: the mean, then the squares of what is
    left.
    """
    weight = np.add.reduce(w)
    if weight == 0.0:
        return Moments.empty(len(relative))
    shift = np.add.reduce(weighted, axis=1) / weight
    deviation = relative - shift[:, None]
    deviation *= deviation
    deviation *= w
    return Moments(np.full(len(relative), weight), origin + shift, np.add.reduce(deviation, axis=1))


def moments_of(x: Array, w: Array, complete: bool = True) -> Moments:
    """Moments of rows. IN x (n_features, n_rows), w (n_rows,); with `complete` False a NaN is a value that is not there."""
    if complete:
        origin = x[:, 0]
        relative = x - origin[:, None]
        return moments_about(origin, relative, w, relative * w)
    parts = [
        moments_of(row[None, there], w[there]) if there.any() else Moments.empty(1)
        for row, there in zip(x, ~np.isnan(x), strict=True)
    ]
    return side_by_side(parts)


def moments_of_rows(x: Array, w: Array, n_complete: int) -> Moments:
    """Moments of rows of which the first `n_complete` features have no missing value. IN x (n_features, n_rows), w."""
    complete = moments_of(x[:n_complete], w)
    return complete if len(x) == n_complete else side_by_side([complete, moments_of(x[n_complete:], w, complete=False)])


def side_by_side(parts: Sequence[Moments]) -> Moments:
    """Moments of all features of `parts`, in their order. IN parts."""
    return Moments(
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.m2 for part in parts]),
    )


def stacked(parts: Sequence[Moments]) -> Moments:
    """Moments of the same features under one another, (n_parts, n_features). IN parts."""
    return Moments(
        np.stack([part.weight for part in parts]),
        np.stack([part.mean for part in parts]),
        np.stack([part.m2 for part in parts]),
    )

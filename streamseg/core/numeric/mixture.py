"""A mixture of normal clusters that share their spread: where centers are whose clusters reach into one another.

k-means cuts between two of them, so that the smaller one's center is off towards the larger one, whose tail it counts as its
own: at 4 standard deviations and a twentieth of the rows by nearly one of the four.
"""

from __future__ import annotations

import numpy as np

from streamseg.core.numeric.metric import inverse_of, squared_distances
from streamseg.core.numeric.portable_math import exp2
from streamseg.core.numeric.types import Array, Ints

_HALF_LOG2_E = 0.7213475204444817


def of_mixture(x: Array, labels: Ints, centers: Array, used: Array, steps: int) -> tuple[Array, Array]:
    """Centers (n_features, k) and metric (n_features,) after `steps` of expectation and maximization.

    Dempster, Laird, Rubin 1977; within a cluster features are independent.

    IN x (n_features, n_rows) with at least one row, labels (n_rows,) to begin with, centers (n_features, k), used
    (n_features,): 0 for features that do not count, else 1. A center without rows stays where it is.
    """
    n_rows, k = x.shape[1], centers.shape[1]
    off = x - centers[:, labels]
    within = inverse_of(np.add.reduce(off * off, axis=1) / n_rows, used)
    shares = np.bincount(labels, minlength=k) / n_rows
    for _ in range(steps):
        squared = np.where(shares[:, None] > 0.0, squared_distances(x, centers, within), np.inf)
        parts = shares[:, None] * exp2(_HALF_LOG2_E * (np.minimum.reduce(squared, axis=0) - squared))
        parts /= np.add.reduce(parts, axis=0)
        shares = np.add.reduce(parts, axis=1) / n_rows
        sums = np.array([np.add.reduce(parts * row, axis=1) for row in x])
        centers = np.where(shares > 0.0, sums / (np.where(shares > 0.0, shares, 1.0) * n_rows), centers)
        spread = [np.add.reduce((parts * (row - c[:, None]) ** 2).ravel()) for row, c in zip(x, centers, strict=True)]
        within = inverse_of(np.array(spread) / n_rows, used)
    return centers, within

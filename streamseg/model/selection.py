"""How many segments: the largest number at which every pair of neighbors has a valley between them.

Where customers have no natural gaps, which is common, that number is 1, and says so; then the number from 3 to 8 is taken
whose segments agree best between fits of two halves of the customers.

scikit-learn decides labels here, which are data in the log.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.kernel.clusters import nearest_label
from streamseg.kernel.mixture import of_mixture
from streamseg.kernel.starts import kmeans_labels
from streamseg.kernel.types import Array, Flags, Ints, sums_by_label
from streamseg.kernel.valley import dithered, passes, valley_ratios

MAX_NATURAL = 12
# A segment is made of at least so many customers.
MIN_ROWS = 20
STABLE = range(3, 9)
_TRIES = 10
_ROUNDS = 5
_SPLITS = 4
_SPLIT_RESTARTS = 4
# Steps of the mixture before gaps are looked at: with 5 one new segment in ten is found late, 20 find no more than 10.
_STEPS = 10


class Choice(NamedTuple):
    """Labels (n_rows,) of `n_segments` segments; `natural`: there are valleys between them."""

    n_segments: int
    labels: Ints
    natural: bool


def choose(x: Array, inverse: Array, seed: int) -> Choice:
    """The number of segments of rows. IN x (n_features, n_rows), at least two of them distinct, inverse (n_features,)."""
    found = natural_labels(dithered(x, seed), inverse, seed)
    if found is not None:
        return Choice(int(found.max()) + 1, found, True)
    distinct = np.unique(x[inverse > 0.0], axis=1).shape[1]
    # Half of the rows have to do for as many.
    numbers = [k for k in STABLE if k <= min(distinct, x.shape[1] // 2)]
    k = max(numbers, key=lambda k: (_agreement(x, inverse, k, seed), -k), default=min(distinct, STABLE[0]))
    return Choice(k, kmeans_labels(x, inverse, k, seed), False)


def natural_labels(x: Array, inverse: Array, seed: int) -> Ints | None:
    """Labels of the largest number of clusters that have valleys between all neighbors; None where there is no valley.

    Each number is tried from several starts, as the fit of least loss may well have split a large cluster and joined two
    small ones. A mixture weighs features by their spread within clusters: those that tell clusters apart lead, also in the
    next fit, and noise does not.
    """
    best: Ints | None = None
    for k in range(2, min(MAX_NATURAL, x.shape[1] // MIN_ROWS) + 1):
        for attempt in range(_TRIES):
            labels = _with_valleys(x, inverse, k, seed + attempt)
            if labels is not None:
                best = labels
                break
    return best


def _with_valleys(x: Array, inverse: Array, k: int, seed: int) -> Ints | None:
    for _ in range(_ROUNDS):
        labels = kmeans_labels(x, inverse, k, seed, restarts=1)
        labels, centers, inverse = by_mixture(x, labels, means_by_label(x, labels, k), inverse)
        enough = np.bincount(labels, minlength=k).min() >= MIN_ROWS
        if enough and passes(valley_ratios(x, labels, centers, inverse)).all():
            return labels
    return None


def by_mixture(x: Array, labels: Ints, centers: Array, inverse: Array) -> tuple[Ints, Array, Array]:
    """Labels, centers and metric by a mixture, in which features weigh by their spread within segments. IN all.

    Those that tell segments apart lead then, whatever their weight.
    """
    centers, within = of_mixture(x, labels, centers, np.where(inverse > 0.0, 1.0, 0.0), _STEPS)
    labels, _ = nearest_label(x, centers, within)
    return labels, centers, within


def means_by_label(x: Array, labels: Ints, k: int) -> Array:
    """(n_features, k). IN x (n_features, n_rows), labels."""
    hits = np.bincount(labels, minlength=k)
    return np.array([sums_by_label(labels, row, k) for row in x]) / np.maximum(hits, 1)


def _agreement(x: Array, inverse: Array, k: int, seed: int) -> float:
    """Adjusted Rand index between fits of two halves on all rows, the mean of several splits."""
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_SPLITS):
        half = rng.permutation(x.shape[1]) % 2 == 0
        one, other = (_labels_by_half(x, inverse, k, seed, side) for side in (half, ~half))
        found.append(adjusted_rand_score(one, other))
    return float(np.mean(found))


def _labels_by_half(x: Array, inverse: Array, k: int, seed: int, half: Flags) -> Ints:
    """Labels of all rows by a fit of one half."""
    labels = kmeans_labels(x[:, half], inverse, k, seed, _SPLIT_RESTARTS)
    return nearest_label(x, means_by_label(x[:, half], labels, k), inverse)[0]

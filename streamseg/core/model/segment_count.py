"""How many segments: the largest number at which every pair of neighbors has a valley between them.

Where customers have no natural gaps, which is common, that number is 1, and says so; then the number from 3 to 8 is taken
whose segments agree best between fits of two halves of the customers.

scikit-learn decides labels here, which are data in the log.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.metric import squared_distances_between
from streamseg.core.numeric.mixture import of_mixture
from streamseg.core.numeric.seeding import kmeans_labels
from streamseg.core.numeric.separation import GATE, dithered, valley_ratios
from streamseg.core.numeric.types import Array, Flags, Ints, sums_by_label

# Clusters that are fitted before those without a valley between them are joined; natural segments are at most so many.
_PIECES = 16
# A segment is made of at least so many customers.
MIN_ROWS = 20
STABLE = range(3, 9)
_TRIES = 4
# Clusters whose centers are less than so many standard deviations of a cluster apart are parts of one: the halves of a
# normal one are by 2.7.
_PARTS_APART = 2.7
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
    """Labels (n_rows,) of the largest number of clusters with valleys between all neighbors; None where there is no valley.

    More clusters than there can be are fitted, and those without a valley between them are joined, until all have one. A
    mixture weighs features by their spread within clusters: those that tell clusters apart lead, and noise does not. A fit
    may keep two small clusters as one, so there are several, and the one that ends with the most clusters is taken.

    IN x (n_features, n_rows), inverse (n_features,).
    """
    distinct = np.unique(x[inverse > 0.0], axis=1).shape[1]
    most = min(_PIECES, x.shape[1] // MIN_ROWS, distinct)
    if most < 2:
        return None
    tries = [_joined_until_apart(x, inverse, most, seed + attempt) for attempt in range(_TRIES)]
    return max((labels for labels in tries if labels is not None), key=lambda labels: int(labels.max()), default=None)


def _joined_until_apart(x: Array, inverse: Array, k: int, seed: int) -> Ints | None:
    """Labels (n_rows,) of at most `k` clusters with valleys between all neighbors; None where one cluster is left."""
    labels = kmeans_labels(x, inverse, k, seed, restarts=1)
    while (k := int(labels.max()) + 1) > 1:
        labels, centers, within = by_mixture(x, labels, means_by_label(x, labels, k), inverse)
        sizes = np.bincount(labels, minlength=k)
        if sizes.min() < MIN_ROWS:
            labels, _ = nearest_label(x, centers[:, np.arange(k) != sizes.argmin()], within)
        else:
            crowded = np.triu(valley_ratios(x, labels, centers, within) >= GATE)
            if not crowded.any():
                return labels
            labels = _join(labels, crowded, np.sqrt(squared_distances_between(centers, within)))
        labels = np.unique(labels, return_inverse=True)[1]
    return None


def _join(labels: Ints, crowded: Flags, apart: Array) -> Ints:
    """Labels with the nearest crowded pair joined, and others that are parts of one cluster, up to a quarter of all.

    IN labels (n_rows,), crowded (k, k) pairs without a valley, apart (k, k) distances in deviations of a cluster.
    """
    first, second = np.nonzero(crowded)
    heir = np.arange(len(apart))
    taken: set[int] = set()
    for place in np.argsort(apart[first, second], kind="stable"):
        one, other = int(first[place]), int(second[place])
        if taken and (2 * len(taken) >= len(apart) or apart[one, other] > _PARTS_APART):
            break
        if not taken & {one, other}:
            taken |= {one, other}
            heir[other] = one
    joined: Ints = heir[labels]
    return joined


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

"""First centers: k-means++ with restarts, by scikit-learn, on one thread.

scikit-learn decides the labels only. What it computes may differ between machines, so its labels are data in the log,
and the kernel takes the means.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.core.numeric.types import Array, Ints

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

RESTARTS = 10
# Rows left out at each end when the spread of a warm-up is judged, so that a typo does not judge itself.
_TRIMMED_SHARE = 0.01


def kmeans_labels(
    x: Array, inverse: Array, n_clusters: int, seed: int, restarts: int = RESTARTS, begin: Array | None = None
) -> Ints:
    """Labels (n_rows,) of k-means++ with restarts, or from centers `begin` (n_features, n_clusters).

    IN x (n_features, n_rows), inverse, begin; `n_clusters` <= distinct rows.
    """
    if n_clusters == 1:
        return np.zeros(x.shape[1], dtype=np.int64)
    scale = np.sqrt(inverse)[:, None]
    how = {"init": "k-means++", "n_init": restarts} if begin is None else {"init": (begin * scale).T, "n_init": 1}
    with _threads().limit(limits=1):
        model = _kmeans()(n_clusters, random_state=seed % 2**32, **how).fit((x * scale).T)
    labels: Ints = model.labels_.astype(np.int64)
    return labels


def load() -> None:
    """Import scikit-learn, which takes a second: before the first event, and not for commands that only look."""
    _kmeans()
    _threads()


def _kmeans() -> Any:
    from sklearn.cluster import KMeans

    return KMeans


@cache
def _threads() -> ThreadpoolController:
    """Of the libraries that scikit-learn computes with; to look for them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def trimmed_band(x: Array, sigmas: float) -> tuple[Array, Array]:
    """Per feature the lowest and highest believable value, each (n_features,). IN x (n_features, n_rows).

    Mean and deviation leave out the extreme 1 % at both ends, so one typo of 1e9 among a thousand rows is outside. A
    feature whose trimmed deviation is 0 has no band; NaN values do not count.
    """
    low = np.full(len(x), -np.inf)
    high = np.full(len(x), np.inf)
    for j, row in enumerate(x):
        values = np.sort(row[~np.isnan(row)])
        cut = int(np.ceil(len(values) * _TRIMMED_SHARE))
        kept = values[cut : len(values) - cut]
        if len(kept) < 10 or kept[0] == kept[-1]:
            continue
        mean = np.add.reduce(kept) / len(kept)
        spread = np.sqrt(np.add.reduce((kept - mean) * (kept - mean)) / len(kept))
        if spread > 0.0:
            low[j], high[j] = mean - sigmas * spread, mean + sigmas * spread
    return low, high

"""First centers: k-means++ with restarts, by scikit-learn, on one thread.

scikit-learn decides the labels only. What it computes may differ between machines, so its labels are data in the log,
and the kernel takes the means.
"""

from __future__ import annotations

import numpy as np

from streamseg.kernel.types import Array, Ints

_RESTARTS = 10
# Rows left out at each end when the spread of a warm-up is judged, so that a typo does not judge itself.
_TRIMMED_SHARE = 0.01


def kmeans_labels(x: Array, inverse: Array, n_clusters: int, seed: int) -> Ints:
    """Labels (n_rows,) of k-means++ with restarts. IN x (n_features, n_rows), inverse; `n_clusters` <= distinct rows."""
    # Only here: importing scikit-learn takes seconds, which every command would wait for.
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if n_clusters == 1:
        return np.zeros(x.shape[1], dtype=np.int64)
    scaled = x * np.sqrt(inverse)[:, None]
    with threadpool_limits(1):
        model = KMeans(n_clusters, init="k-means++", n_init=_RESTARTS, random_state=seed).fit(scaled.T)
    labels: Ints = model.labels_.astype(np.int64)
    return labels


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
        if len(kept) < 10:
            continue
        mean = np.add.reduce(kept) / len(kept)
        spread = np.sqrt(np.add.reduce((kept - mean) * (kept - mean)) / len(kept))
        if spread > 0.0:
            low[j], high[j] = mean - sigmas * spread, mean + sigmas * spread
    return low, high

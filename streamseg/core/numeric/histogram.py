"""Log-histograms of squared distance, one for each cluster: mergeable, of fixed size, no logarithm needed.

A bin is a quarter of an octave: the exponent of the float and the first two bits of its mantissa, read off its bits.
Bins cover 2^-16 to 2^16; what lies outside is in the first or last bin.
"""

from __future__ import annotations

import numpy as np

from streamseg.core.numeric.types import Array, Ints, sums_by_label

N_BINS = 128
_SHIFT = 50
_FIRST = (1023 - 16) << 2


def bins_of(squared: Array) -> Ints:
    """The bin of each squared distance, same shape. IN squared (non-negative)."""
    bins = squared.view(np.int64) >> _SHIFT
    bins -= _FIRST
    result: Ints = np.minimum(np.maximum(bins, 0), N_BINS - 1)
    return result


def count(squared: Array, labels: Ints, w: Array, n_clusters: int) -> Array:
    """Weight in each bin, (n_clusters, N_BINS). IN squared, labels, w, each (n_rows,)."""
    cells = labels * N_BINS
    cells += bins_of(squared)
    return sums_by_label(cells, w, n_clusters * N_BINS).reshape(n_clusters, N_BINS)


def quantile(histogram: Array, share: float) -> Array:
    """The squared distance that `share` of each cluster's weight does not exceed, (n_clusters,); NaN where empty.

    It is the upper edge of the bin, thus too large by at most a quarter of an octave. IN histogram.
    """
    reached = np.cumsum(histogram, axis=1)
    total = reached[:, -1]
    bin_of = np.argmax(reached >= (share * total)[:, None], axis=1)
    edge = ((bin_of + 1 + _FIRST) << _SHIFT).astype(np.int64).view(np.float64)
    return np.where(total > 0.0, edge, np.nan)

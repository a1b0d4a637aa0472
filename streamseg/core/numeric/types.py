"""Array types, by element."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# Larger magnitudes overflow when they are squared and summed: such a value is a mistake, not a measurement.
MAX_MAGNITUDE = 1e100


def sums_by_label(labels: Ints, weights: Array, n_labels: int) -> Array:
    """Sum of the weights of each label, (n_labels,), added in the order of the rows. IN labels, weights, (n_rows,)."""
    sums: Array = np.bincount(labels, weights, minlength=n_labels)  # type: ignore[assignment]
    return sums

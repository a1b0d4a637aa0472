"""Dicts, DataFrames and arrays to feature-major arrays, with bad rows left out and counted."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from streamseg.core.numeric.types import MAX_MAGNITUDE, Array, Flags


class Frame(NamedTuple):
    """Rows of a batch: `x` (n_features, n_rows), which rows are usable (n_rows,), and their labels."""

    x: Array
    usable: Flags
    labels: pd.Index[Any]


def number(value: object) -> float:
    """The value as a float; NaN where it is no usable number (text, None, a boolean, NaN, infinite, above 1e100)."""
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return float("nan")
        try:
            value = float(value)
        except OverflowError:
            return float("nan")
    return value if -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE else float("nan")


def frame_of(X: pd.DataFrame | npt.ArrayLike, features: Sequence[Hashable]) -> Frame:
    """Rows of a DataFrame (columns by name; a column that is not there is missing in every row) or of an array.

    Raises ValueError where an array is not of shape (n_rows, n_features).
    """
    if isinstance(X, pd.DataFrame):
        x = np.full((len(features), len(X)), np.nan)
        for j, name in enumerate(features):
            if name in X.columns:
                x[j] = _numbers(X[name])
        index = X.index
    else:
        array = np.asarray(X, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != len(features):
            raise ValueError(f"X must have shape (n_rows, {len(features)}), not {array.shape}")
        x = np.ascontiguousarray(array.T)
        index = pd.RangeIndex(len(array))
    largest = np.maximum.reduce(np.abs(x), axis=0) if len(x) else np.zeros(x.shape[1])
    return Frame(x, largest <= MAX_MAGNITUDE, index)


def weights_of(w: float | npt.ArrayLike | None, n_rows: int) -> Array:
    """Weights (n_rows,). Raises ValueError where one is negative or not finite, or the length differs."""
    weights = np.ones(n_rows) if w is None else np.broadcast_to(np.asarray(w, dtype=np.float64), (n_rows,))
    if not (np.isfinite(weights).all() and (weights >= 0.0).all()):
        raise ValueError("weights must be finite and not negative")
    return weights


def times_of(t: float | npt.ArrayLike | None, n_rows: int) -> Array | None:
    """Event times in seconds, (n_rows,). Raises ValueError where one is not finite or the length differs."""
    if t is None:
        return None
    times = np.broadcast_to(np.asarray(t, dtype=np.float64), (n_rows,))
    if not np.isfinite(times).all():
        raise ValueError("event times must be finite numbers of seconds")
    return times


def _numbers(column: pd.Series[Any]) -> Array:
    if column.dtype != object and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.array([number(value) for value in column])

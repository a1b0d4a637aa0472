"""`StandardScaler`: running standardization with forgetting and exact merge."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from river import base

from streamseg.core.model.spec import parse_forgetting
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.moments import Moments, moments_of, side_by_side
from streamseg.core.numeric.types import Array
from streamseg.estimators.rows import frame_of, number, times_of, weights_of


class StandardScaler(base.MiniBatchTransformer):
    """Scales features to mean 0 and variance 1 by running moments.

    Features may come and go. A row with an infinite, too large or non-numeric value is not learned; `n_rejected` counts
    those.

    Parameters
    ----------
    half_life
        None, a number of rows' weight, or a duration of event time such as "30d" (then `t` is needed).

    Examples
    --------
    >>> from streamseg import StandardScaler
    >>> scaler = StandardScaler()
    >>> for x in [1.0, 2.0, 3.0]:
    ...     scaler.learn_one({"x": x})
    >>> scaler.means, scaler.transform_one({"x": 2.0})
    ({'x': 2.0}, {'x': 0.0})
    """

    def __init__(self, half_life: float | str | None = None) -> None:
        self.half_life = half_life
        self.n_rejected = 0
        self._forgetting = parse_forgetting(half_life)
        self._names: list[Hashable] = []
        self._moments = Moments.empty(0)
        self._clock = NEVER
        self._age = 0.0

    def learn_one(self, x: dict[Any, Any], w: float = 1.0, t: float | None = None) -> None:
        """Learn one row; features that are missing are left alone."""
        row = np.array([[number(value)] for value in x.values()]).reshape(len(x), 1)
        self._learn(list(x), row, weights_of(w, 1), times_of(t, 1), ~np.isnan(row).any(axis=0))

    def learn_many(self, X: pd.DataFrame, w: npt.ArrayLike | None = None, t: npt.ArrayLike | None = None) -> None:
        """Learn the rows of a DataFrame; w, t: scalar or (n_rows,)."""
        names: list[Hashable] = list(X.columns)
        frame = frame_of(X, names)
        n_rows = len(frame.usable)
        self._learn(names, frame.x, weights_of(w, n_rows), times_of(t, n_rows), frame.usable)

    def _learn(self, names: list[Hashable], x: Array, w: Array, t: Array | None, usable: npt.NDArray[np.bool_]) -> None:
        if self._forgetting.unit == "time" and t is None:
            raise ValueError("a half-life in event time needs t, the event time of each row in seconds")
        self.n_rejected += int(np.count_nonzero(~usable))
        if not usable.all():
            x, w, t = x[:, usable], w[usable], None if t is None else t[usable]
        if x.shape[1] == 0 or not names:
            return
        aged = self._forgetting.age(w, t, self._clock)
        self._clock = aged.clock
        self._age += aged.age
        self._moments.decay(aged.factor)
        self._merge(names, moments_of(np.ascontiguousarray(x), aged.weights))

    def _merge(self, names: Sequence[Hashable], moments: Moments) -> None:
        known = set(self._names)
        new = [name for name in names if name not in known]
        if new:
            self._names += new
            self._moments = side_by_side([self._moments, Moments.empty(len(new))])
        if list(names) == self._names:
            self._moments.merge(moments)
            return
        full = Moments.empty(len(self._names))
        at = [self._names.index(name) for name in names]
        full.weight[at], full.mean[at], full.m2[at] = moments.weight, moments.mean, moments.m2
        self._moments.merge(full)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """(value - mean) / deviation for each feature; 0.0 for one that is unknown or does not vary. Pure."""
        means, deviations = self.means, self._deviations()
        return {name: (value - means[name]) / deviations[name] if deviations.get(name) else 0.0 for name, value in x.items()}

    def transform_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """As `transform_one`, for the columns of a DataFrame; the index stays. Pure."""
        means, deviations = self.means, self._deviations()
        columns = {
            name: (X[name].to_numpy(dtype=np.float64) - means[name]) / deviations[name]
            if deviations.get(name)
            else np.zeros(len(X))
            for name in X.columns
        }
        return pd.DataFrame(columns, index=X.index, columns=X.columns)

    def inverse_transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """value * deviation + mean for each feature. Raises KeyError for one that was never seen. Pure."""
        means, deviations = self.means, self._deviations()
        return {name: value * deviations[name] + means[name] for name, value in x.items()}

    @property
    def means(self) -> dict[Any, float]:
        return dict(zip(self._names, self._moments.mean.tolist(), strict=True))

    @property
    def variances(self) -> dict[Any, float]:
        """Population variances (ddof 0)."""
        return dict(zip(self._names, self._moments.variance().tolist(), strict=True))

    @property
    def n_seen(self) -> dict[Any, float]:
        """Weight seen of each feature, faded to now."""
        return dict(zip(self._names, self._moments.weight.tolist(), strict=True))

    def _deviations(self) -> dict[Any, float]:
        return dict(zip(self._names, np.sqrt(self._moments.variance()).tolist(), strict=True))

    def __iadd__(self, other: Self) -> Self:  # type: ignore[override,misc]
        """Add what `other` learned, as if its rows came after. Raises ValueError where half-lives differ."""
        if other._forgetting != self._forgetting:
            raise ValueError("cannot merge scalers of different half-lives")
        mine, theirs = self._forgetting.meet(self._clock, other._clock, other._age)
        self._age += other._age
        self._clock = max(self._clock, other._clock)
        self._moments.decay(mine)
        moments = other._moments.copy()
        moments.decay(theirs)
        self._merge(other._names, moments)
        self.n_rejected += other.n_rejected
        return self

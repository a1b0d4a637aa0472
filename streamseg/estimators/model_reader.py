"""The reading side of both clusterers: predictions, centers, moments. Nothing here changes a model."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from river import base

from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.clusters import margin, nearest, nearest_label
from streamseg.core.numeric.metric import squared_distances_between
from streamseg.core.numeric.moments import Moments, moments_of
from streamseg.estimators.keyed import KeyedModel
from streamseg.estimators.rows import frame_of, number

NO_SEGMENT = -1
# Numbers of all centers up to which one row is compared in Python.
_FEW = 100


class ModelReader(base.Clusterer):
    """The reading side of `ModelClusterer`."""

    _features: tuple[Hashable, ...] | None
    _spec: ModelSpec
    _state: ModelState
    # Rows that wait for the next step: values, weights, times.
    _waiting: tuple[list[list[float]], list[float], list[float | None]]
    # The model of a table, once a row came with a key.
    _keyed: KeyedModel | None

    def predict_one(self, x: dict[Any, Any], key: Hashable | None = None) -> int:
        """The segment id of one row by the model of the last step.

        With the `key` of a customer, the segment that the job would tag it with: a little margin keeps it where it is.
        Returns -1 while there is no model, and where the row lacks a usable feature. Changes nothing.
        """
        if not self._state.ready:
            return NO_SEGMENT
        get = x.get
        row = [number(get(name)) for name in self._features or ()]
        if any(map(math.isnan, row)):
            return NO_SEGMENT
        if key is not None and self._keyed is not None:
            return self._keyed.predict(str(key), row)
        centers, inverse, ids = self._for_one()
        if len(ids) * len(row) > _FEW:
            label, _ = nearest_label(np.array(row)[:, None], np.array(centers).T, np.array(inverse))
            return ids[int(label[0])]
        # The same operations in the same order, for a tenth of what NumPy takes for one row.
        nearest_id, least = NO_SEGMENT, math.inf
        for center, segment_id in zip(centers, ids, strict=True):
            squared = 0.0
            for value, middle, scale in zip(row, center, inverse, strict=True):
                off = value - middle
                squared += off * off * scale
            if squared < least or nearest_id == NO_SEGMENT:
                nearest_id, least = segment_id, squared
        return nearest_id

    def _for_one(self) -> tuple[list[list[float]], list[float], list[int]]:
        """Centers, inverse variances and ids of the present model, as lists."""
        centers, inverse = self._state.tagging.centers.centers, self._state.metric.inverse(self._spec)
        return centers.T.tolist(), inverse.tolist(), self._state.ids

    def predict_many(self, X: pd.DataFrame | npt.ArrayLike) -> pd.Series[Any]:
        """Segment ids, int64, with the index of X; -1 as in `predict_one`. Pure."""
        return self.assign_many(X)["segment_id"].rename(None)

    def assign_many(self, X: pd.DataFrame | npt.ArrayLike) -> pd.DataFrame:
        """segment_id, distance, runner_up_segment_id, margin of each row, with the index of X. Pure.

        Without a segment (or a runner-up) ids are -1 and numbers NaN.
        """
        frame = frame_of(X, self._features) if self._features is not None else None
        n_rows = len(X) if isinstance(X, pd.DataFrame) else len(np.asarray(X))
        ids, runners = np.full(n_rows, NO_SEGMENT), np.full(n_rows, NO_SEGMENT)
        distance, sure = np.full(n_rows, np.nan), np.full(n_rows, np.nan)
        if frame is not None and self._state.ready:
            all_usable = bool(frame.usable.all())
            usable: Any = slice(None) if all_usable else frame.usable
            champion, inverse = self._state.tagging, self._state.metric.inverse(self._spec)
            near = nearest(frame.x[:, usable], champion.centers.centers, inverse)
            names = np.array([*self._state.ids, NO_SEGMENT], dtype=np.int64)
            ids[usable], runners[usable] = names[near.labels], names[near.runner_up]
            distance[usable] = np.sqrt(near.squared)
            sure[usable] = margin(near, squared_distances_between(champion.centers.centers, inverse))
        index = frame.labels if frame is not None else X.index if isinstance(X, pd.DataFrame) else None
        columns = {"segment_id": ids, "distance": distance, "runner_up_segment_id": runners, "margin": sure}
        return pd.DataFrame(columns, index=index, copy=False)

    @property
    def centers(self) -> dict[int, dict[str, float]]:
        """Centers by segment id, in feature units, unscaled; empty while there is no model."""
        if not self._state.ready:
            return {}
        columns = self._state.tagging.centers.centers.T.tolist()
        return {i: dict(zip(self._names(), c, strict=True)) for i, c in zip(self._state.ids, columns, strict=True)}

    @property
    def weights(self) -> dict[int, float]:
        """Weight of each segment, faded to now, warm-up rows included."""
        if not self._state.ready:
            return {}
        champion = self._state.tagging
        return dict(zip(self._state.ids, champion.centers.weights.tolist(), strict=True))

    @property
    def means(self) -> dict[str, float]:
        """Running mean of each feature, faded, warm-up rows included."""
        return dict(zip(self._names(), self._moments().mean.tolist(), strict=True))

    @property
    def variances(self) -> dict[str, float]:
        """Running population variance of each feature, faded, warm-up rows included."""
        return dict(zip(self._names(), self._moments().variance().tolist(), strict=True))

    @property
    def n_seen(self) -> int:
        """Rows learned, warm-up and those that wait for the next step included."""
        warming = 0 if self._keyed is None or self._state.ready else self._state.warm_up.events - self._state.rows
        waiting = len(self._waiting[0]) if self._keyed is None else self._keyed.waiting
        return self._state.rows + warming + waiting

    @property
    def n_clipped(self) -> int:
        """Values that the guard `clip_sigmas` pulled in."""
        return self._state.clipped

    def _names(self) -> tuple[str, ...]:
        return self._spec.names if self._features else ()

    def _moments(self) -> Moments:
        rows = self._state.warm_up.rows
        if self._state.ready or not rows:
            return self._state.moments if self._features else Moments.empty(0)
        x = np.array([row for _, _, row in rows.values()], dtype=np.float64).T
        return moments_of(np.ascontiguousarray(x), np.array([w for w, _, _ in rows.values()]))

    def segment_of(self, key: Hashable) -> int:
        """The segment id that the customer of a key was last tagged with; -1 where it has none yet."""
        return NO_SEGMENT if self._keyed is None else self._keyed.segment_of(str(key))

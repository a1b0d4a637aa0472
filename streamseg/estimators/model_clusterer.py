"""What both clusterers are: a model, learned row by row or in batches, without customers and without a log."""

from __future__ import annotations

import abc
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from river import base

from streamseg.estimators.rows import frame_of, number, row_of, times_of, weights_of
from streamseg.estimators.since_start import Begun, since_start
from streamseg.kernel.clusters import margin, nearest, nearest_label
from streamseg.kernel.forgetting import NEVER
from streamseg.kernel.metric import is_off, squared_distances_between
from streamseg.kernel.moments import Moments, moments_of
from streamseg.kernel.types import Array
from streamseg.model.apply import apply
from streamseg.model.codec import from_json, to_json
from streamseg.model.decisions import decided, due
from streamseg.model.fitted import FittedModel
from streamseg.model.learning import Sampled, block_edges, collect, learn
from streamseg.model.records import Delta, Start, WarmRows
from streamseg.model.search import search
from streamseg.model.spec import STEP, ModelSpec
from streamseg.model.start import start_from_centers, start_from_fitted, start_from_warm_up, warm_up_over
from streamseg.model.state import Metric, ModelState

Features = Sequence[Hashable]
Centers = Mapping[int, Mapping[str, float]]

NO_SEGMENT = -1
_FORMAT_VERSION = 4


class ModelClusterer(base.Clusterer):
    """Base of `Segmenter` and `KMeans`.

    Rows with a missing, infinite, too large or non-numeric feature are not learned; `n_rejected` counts them.
    """

    n_rejected: int

    def _begin(self, features: Features | None) -> None:
        self.n_rejected = 0
        self._features: tuple[Hashable, ...] | None = tuple(features) if features is not None else None
        self._spec = self._make_spec(("x",) if self._features is None else tuple(map(str, self._features)))
        self._spec.check()
        self._state = ModelState.empty(self._spec)
        self._begun: Begun | None = None
        if self._features is not None:
            self._warm_start()

    @abc.abstractmethod
    def _make_spec(self, names: tuple[str, ...], warm_up: int | None = None) -> ModelSpec:
        """The parameters as a spec; `warm_up` instead of the parameter, where it had to be longer."""

    @abc.abstractmethod
    def _given_start(self) -> Centers | FittedModel | None:
        """The parameter `start`."""

    def _warm_start(self) -> None:
        given = self._given_start()
        if given is None:
            return
        if isinstance(given, FittedModel):
            self._accept(start_from_fitted(self._spec, given))
        else:
            self._accept(start_from_centers(self._spec, given))

    def _accept(self, start: Start) -> None:
        apply(self._state, self._spec, start)
        state = self._state
        self._begun = Begun(start, state.clock, state.age, state.rows, state.clipped, state.held_back)

    def _know(self, names: Sequence[Hashable]) -> None:
        """Take the features of the first usable row, where none were named; in sorted order, whatever the row's."""
        if self._features is None:
            self._features = tuple(sorted(names, key=str))
            self._spec = self._make_spec(tuple(str(name) for name in self._features))
            self._state = ModelState.empty(self._spec)
            self._warm_start()

    def learn_one(self, x: dict[Any, Any], w: float = 1.0, t: float | None = None) -> None:
        """Learn one row of weight `w` at event time `t` (seconds). Raises ValueError for a bad weight or time."""
        if self._features is None and x and not any(math.isnan(number(value)) for value in x.values()):
            self._know(list(x))
        row = row_of(x, self._features or ())
        if row is None or not self._features:
            self.n_rejected += 1
            return
        self._learn(row, weights_of(w, 1), times_of(t, 1))

    def learn_many(
        self, X: pd.DataFrame | npt.ArrayLike, w: npt.ArrayLike | None = None, t: npt.ArrayLike | None = None
    ) -> None:
        """Learn rows in order. X: DataFrame, or float array of shape (n_rows, n_features); w, t: scalar or (n_rows,).

        Raises ValueError for a wrong shape, a bad weight or time.
        """
        if self._features is None:
            columns = list(X.columns) if isinstance(X, pd.DataFrame) else list(range(np.asarray(X).shape[1]))
            if not columns:
                return
            self._know(columns)
        frame = frame_of(X, self._features or ())
        weights, times = weights_of(w, len(frame.usable)), times_of(t, len(frame.usable))
        if frame.usable.all():
            self._learn(frame.x, weights, times)
            return
        self.n_rejected += int(np.count_nonzero(~frame.usable))
        self._learn(frame.x[:, frame.usable], weights[frame.usable], None if times is None else times[frame.usable])

    def _learn(self, x: Array, w: Array, t: Array | None) -> None:
        if self._spec.forgetting.unit == "time" and t is None:
            raise ValueError("a half-life in event time needs t, the event time of each row in seconds")
        while not self._state.ready and x.shape[1]:
            first = min(x.shape[1], max(1, self._spec.warm_up - len(self._state.warm_up.rows)))
            self._warm(x[:, :first], w[:first], None if t is None else t[:first])
            x, w, t = x[:, first:], w[first:], None if t is None else t[first:]
        step = STEP if self._spec.tunes_itself else max(1, x.shape[1])
        for first in range(0, x.shape[1], step):
            rows = slice(first, first + step)
            self._learn_rows(x[:, rows], w[rows], None if t is None else t[rows])

    def _learn_rows(self, x: Array, w: Array, t: Array | None) -> None:
        """Learn rows, then decide what is due, as a job does between batches."""
        edges = block_edges(self._state.rows, x.shape[1])
        sampled = None
        if self._spec.refits:
            # Rows are their own customers.
            places = np.arange(x.shape[1])
            sampled = Sampled(places, self._state.rows + places)
        delta = learn(self._state, self._spec, x, w, t, edges, sampled=sampled)
        if self._begun is not None and self._begun.clock == NEVER and delta.first_s is not None:
            self._begun.clock = delta.first_s
        apply(self._state, self._spec, delta)
        while (what := due(self._state, self._spec)) is not None:
            decision = search(self._state, self._spec) if what == "search" else decided(self._state, self._spec)
            assert decision is not None
            apply(self._state, self._spec, decision)

    def _warm(self, x: Array, w: Array, t: Array | None) -> None:
        done = self._state.warm_up.events
        position = self._state.age + np.cumsum(w)
        at = position if self._spec.forgetting.unit == "weight" or t is None else t
        rows = WarmRows(list(range(done, done + x.shape[1])), w, at, x)
        apply(self._state, self._spec, collect(self._state, self._spec, rows, x.shape[1], float(np.add.reduce(w)), t))
        if warm_up_over(self._state, self._spec):
            start = start_from_warm_up(self._state, self._spec)
            if start is not None:
                self._accept(start)
            else:
                # Fewer distinct rows than centers: wait for as many rows again.
                self._spec = self._make_spec(self._spec.names, 2 * len(self._state.warm_up.rows))

    def predict_one(self, x: dict[Any, Any]) -> int:
        """The segment id of one row; -1 while there is no model, or where the row lacks a usable feature. Pure."""
        row = row_of(x, self._features or ()) if self._state.ready else None
        if row is None:
            return NO_SEGMENT
        champion = self._state.tagging
        label, _ = nearest_label(row, champion.centers.centers, self._state.metric.inverse(self._spec))
        return self._state.segments[int(label[0])].id

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
        """Rows learned, warm-up included."""
        return self._state.rows

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

    def merge(self, other: Self) -> None:
        """Add what `other` learned apart from the same start, as if its rows came after this one's.

        One that is in its warm-up still gives its rows; two that are not both began with the same `start`. Raises
        ValueError otherwise.
        """
        if other is self:
            raise ValueError("a model cannot be merged with itself")
        if other._spec.features != self._spec.features or other._spec.forgetting != self._spec.forgetting:
            raise ValueError("cannot merge models of different features or half-lives")
        if self._spec.tunes_itself:
            raise ValueError(
                "models that tune themselves go ways of their own and cannot be merged: give n_segments and half_life"
            )
        if not other._state.ready:
            self._take_rows(other._state)
        elif not self._state.ready:
            mine, self._state, self._begun = self._state, _copied(other._state), other._begun
            self._take_rows(mine)
        elif self._begun is None or other._begun is None or to_json(self._begun.start) != to_json(other._begun.start):
            raise ValueError("cannot merge models that did not begin with the same start")
        else:
            if self._begun.clock == NEVER:
                self._begun.clock = self._state.clock = other._begun.clock
            self._add(since_start(other._state, other._begun, self._spec))
        self.n_rejected += other.n_rejected

    def _take_rows(self, other: ModelState) -> None:
        rows = list(other.warm_up.rows.values())
        if rows:
            x = np.ascontiguousarray(np.array([row for _, _, row in rows], dtype=np.float64).T)
            at = None if self._spec.forgetting.unit != "time" else np.array([at for _, at, _ in rows], dtype=np.float64)
            self._learn(x, np.array([w for w, _, _ in rows]), at)

    def _add(self, delta: Delta) -> None:
        apply(self._state, self._spec, delta)
        moments, metric, n = self._state.moments, self._state.metric, self._spec.n_weighted
        if metric.settled and not self._spec.unit_metric and is_off(moments.variance()[:n], metric.variance[:n]):
            self._state.metric = Metric(metric.epoch + 1, True, moments.mean.copy(), moments.variance())

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-safe and exact."""
        return {
            "format": f"streamseg.{type(self).__name__}",
            "version": _FORMAT_VERSION,
            "features": None if self._features is None else list(self._features),
            "warm_up": self._spec.warm_up,
            "n_rejected": self.n_rejected,
            "params": to_json(_plain(self._get_params())),
            "state": to_json(self._state),
            "begun": to_json(self._begun),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The estimator that `to_dict` wrote. Raises ValueError for another format or version."""
        if d.get("format") != f"streamseg.{cls.__name__}" or d.get("version") != _FORMAT_VERSION:
            raise ValueError(f"not a {cls.__name__} of version {_FORMAT_VERSION}: {d.get('format')} {d.get('version')}")
        params = dict(d["params"])
        if isinstance(params.get("features"), list):
            params["features"] = tuple(params["features"])
        start = params.get("start")
        if start is not None:
            fitted = "segments" in start
            params["start"] = from_json(start, FittedModel) if fitted else {int(i): c for i, c in start.items()}
        out = cls(**params)
        if d["features"] is not None:
            out._know(d["features"])
            out._features = tuple(d["features"])
        out._spec = out._make_spec(out._spec.names, d["warm_up"])
        out._state = from_json(d["state"], ModelState)
        out._begun = from_json(d["begun"], Begun | None)  # type: ignore[arg-type]
        out.n_rejected = d["n_rejected"]
        return out


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    start = params.get("start")
    if isinstance(start, Mapping):
        return {**params, "start": {int(i): {str(f): float(v) for f, v in c.items()} for i, c in start.items()}}
    return params


def _copied(state: ModelState) -> ModelState:
    return from_json(to_json(state), ModelState)

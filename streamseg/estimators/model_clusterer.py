"""What both clusterers are: a model, learned row by row or in batches, without customers and without a log."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from streamseg.core.model.codec import from_json, to_json
from streamseg.core.model.initialization import start_from_centers, start_from_fitted, start_from_warm_up, warm_up_over
from streamseg.core.model.model_file import FittedModel
from streamseg.core.model.policy import decided, due
from streamseg.core.model.records import Delta, Start, WarmRows
from streamseg.core.model.refit import search
from streamseg.core.model.spec import STEP, ModelSpec
from streamseg.core.model.state import Metric, ModelState
from streamseg.core.model.training import Sampled, block_edges, collect, learn
from streamseg.core.model.transitions import apply
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.metric import is_off
from streamseg.core.numeric.types import Array
from streamseg.estimators.keyed import KeyedModel
from streamseg.estimators.model_reader import ModelReader
from streamseg.estimators.rows import Frame, frame_of, number, times_of, weights_of
from streamseg.estimators.since_start import Begun, since_start

Features = Sequence[Hashable]
Centers = Mapping[int, Mapping[str, float]]

_FORMAT_VERSION = 5


class ModelClusterer(ModelReader):
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
        self._keyed = None
        # Rows of `learn_one` that wait for the next step: values, weights, times.
        self._waiting: tuple[list[list[float]], list[float], list[float | None]] = [], [], []
        if self._features is not None:
            self._warm_start()

    @abc.abstractmethod
    def _make_spec(self, names: tuple[str, ...], warm_up: int | None = None) -> ModelSpec:
        """The parameters as a spec; `warm_up` instead of the parameter, where it had to be longer."""

    @abc.abstractmethod
    def _given_start(self) -> Centers | FittedModel | None:
        """The parameter `start`."""

    def _table_spec(self) -> ModelSpec:
        """The parameters as the spec of a table of customers. Raises ValueError where they have no meaning for one."""
        raise ValueError(f"{type(self).__name__} takes no keys: Segmenter does")

    def _start(self, spec: ModelSpec) -> Start | None:
        given = self._given_start()
        if given is None:
            return None
        return start_from_fitted(spec, given) if isinstance(given, FittedModel) else start_from_centers(spec, given)

    def _warm_start(self) -> None:
        start = self._start(self._spec)
        if start is not None:
            self._accept(start)

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

    def _for_keys(self, w: npt.ArrayLike | None) -> KeyedModel:
        """The model of a table, created for the first row that has a key. Raises ValueError."""
        if w is not None and not (np.asarray(w) == 1.0).all():
            raise ValueError("rows with keys have no weight: each customer counts once")
        if self._keyed is None:
            if self.n_seen > (0 if self._begun is None else self._begun.rows):
                raise ValueError("rows without keys were learned already: give all rows keys, or none")
            self._spec = self._table_spec()
            self._keyed = KeyedModel(self._spec, self._start(self._spec))
            self._state = self._keyed.state
        return self._keyed

    def _no_keys(self) -> None:
        if self._keyed is not None:
            raise ValueError("rows with keys were learned already: give all rows keys, or none")

    def learn_one(self, x: dict[Any, Any], w: float = 1.0, t: float | None = None, key: Hashable | None = None) -> None:
        """Learn one row of weight `w` at event time `t` (seconds).

        The row is buffered until the next step of the model: the end of the warm-up, every 500 rows, `close_step` or
        `learn_many`. Predictions, centers and statistics are those of the last step. With a `key` the row replaces the last
        one of the same customer. Raises ValueError for a bad weight or time, and where some rows have keys and some do not.
        """
        if self._features is None and x and not any(math.isnan(number(value)) for value in x.values()):
            self._know(list(x))
        get = x.get
        row = [number(get(name)) for name in self._features or ()]
        if not row or any(map(math.isnan, row)):
            self.n_rejected += 1
            return
        if t is not None and not math.isfinite(t):
            raise ValueError("event times must be finite numbers of seconds")
        if key is not None:
            keyed = self._keyed if self._keyed is not None and w == 1.0 else self._for_keys(w)
            keyed.add(str(key), row, t)
            return
        self._no_keys()
        self._check_row(w, t)
        rows, weights, times = self._waiting
        if rows and (times[-1] is None) != (t is None):
            self.close_step()
            rows, weights, times = self._waiting
        rows.append(row)
        weights.append(w)
        times.append(t)
        if len(rows) >= self._until_step():
            self.close_step()

    def _check_row(self, w: float, t: float | None) -> None:
        if not 0.0 <= w < math.inf:
            raise ValueError("weights must be finite and not negative")
        if t is None and self._spec.forgetting.unit == "time":
            raise ValueError("a half-life in event time needs t, the event time of each row in seconds")

    def _until_step(self) -> int:
        """Rows until the next step: the end of the warm-up, or a multiple of so many rows."""
        if not self._state.ready:
            return max(1, self._spec.warm_up - len(self._state.warm_up.rows))
        return STEP - self._state.rows % STEP

    def learn_many(
        self,
        X: pd.DataFrame | npt.ArrayLike,
        w: npt.ArrayLike | None = None,
        t: npt.ArrayLike | None = None,
        keys: Sequence[Hashable] | pd.Series[Any] | None = None,
    ) -> None:
        """Learn rows in order. X: DataFrame, or float array of shape (n_rows, n_features); w, t: scalar or (n_rows,).

        `keys`, one for each row: as in `learn_one`. Raises ValueError for a wrong shape, a bad weight or time, and where
        some rows have keys and some do not.
        """
        if self._features is None:
            columns = list(X.columns) if isinstance(X, pd.DataFrame) else list(range(np.asarray(X).shape[1]))
            if not columns:
                return
            self._know(columns)
        frame = frame_of(X, self._features or ())
        weights, times = weights_of(w, len(frame.usable)), times_of(t, len(frame.usable))
        if keys is not None:
            self._learn_many_keyed(frame, w, times, [str(key) for key in keys])
            return
        self._no_keys()
        self.close_step()
        if frame.usable.all():
            self._learn(frame.x, weights, times)
            return
        self.n_rejected += int(np.count_nonzero(~frame.usable))
        self._learn(frame.x[:, frame.usable], weights[frame.usable], None if times is None else times[frame.usable])

    def _learn_many_keyed(self, frame: Frame, w: npt.ArrayLike | None, t: Array | None, keys: list[str]) -> None:
        if len(keys) != len(frame.usable):
            raise ValueError(f"there are {len(frame.usable)} rows and {len(keys)} keys")
        keyed, usable = self._for_keys(w), frame.usable
        self.n_rejected += int(np.count_nonzero(~usable))
        kept = [key for key, good in zip(keys, usable.tolist(), strict=True) if good]
        keyed.add_many(kept, frame.x[:, usable], None if t is None else t[usable])

    def close_step(self) -> None:
        """Learn the rows that wait for the next step now, as a job does where its input ends."""
        if self._keyed is not None:
            self._keyed.close_step()
        rows, weights, times = self._waiting
        if rows:
            self._waiting = [], [], []
            x = np.ascontiguousarray(np.array(rows, dtype=np.float64).T)
            self._learn(
                x, np.array(weights, dtype=np.float64), None if times[0] is None else np.array(times, dtype=np.float64)
            )

    def _learn(self, x: Array, w: Array, t: Array | None) -> None:
        if self._spec.forgetting.unit == "time" and t is None:
            raise ValueError("a half-life in event time needs t, the event time of each row in seconds")
        while not self._state.ready and x.shape[1]:
            first = min(x.shape[1], max(1, self._spec.warm_up - len(self._state.warm_up.rows)))
            self._warm(x[:, :first], w[:first], None if t is None else t[:first])
            x, w, t = x[:, first:], w[first:], None if t is None else t[first:]
        while x.shape[1]:
            end = self._until_step() if self._spec.tunes_itself else x.shape[1]
            self._learn_rows(x[:, :end], w[:end], None if t is None else t[:end])
            x, w, t = x[:, end:], w[end:], None if t is None else t[end:]

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
        # Within a step nothing is decided: where it was cut changes nothing.
        if self._state.rows % STEP:
            return
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

    def merge(self, other: Self) -> None:
        """Add what `other` learned apart from the same start, as if its rows came after this one's.

        One that is in its warm-up still gives its rows; two that are not both began with the same `start`. One with keys
        gives the latest row of each of its customers, who must be others than this one's. Raises ValueError otherwise.
        """
        if other is self:
            raise ValueError("a model cannot be merged with itself")
        if self._keyed is not None or other._keyed is not None:
            self._merge_keyed(other)
            return
        if other._spec.features != self._spec.features or other._spec.forgetting != self._spec.forgetting:
            raise ValueError("cannot merge models of different features or half-lives")
        if self._spec.tunes_itself:
            raise ValueError(
                "models that tune themselves go ways of their own and cannot be merged: give n_segments and half_life"
            )
        self.close_step()
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
        self._waiting = copy.deepcopy(other._waiting)
        self.close_step()
        self.n_rejected += other.n_rejected

    def _merge_keyed(self, other: Self) -> None:
        if other._keyed is None:
            raise ValueError("cannot merge rows with keys and rows without")
        if other._features != self._features:
            raise ValueError("cannot merge models of different features")
        keyed = self._for_keys(None)
        shared = keyed.keys & other._keyed.keys
        if shared:
            raise ValueError(
                f"{len(shared)} customers are in both models, such as {min(shared)!r}: only one can have their row"
            )
        keys, x = other._keyed.rows()
        keyed.add_many(keys, x, None)
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
            "waiting": to_json(self._waiting),
            "state": None if self._keyed is not None else to_json(self._state),
            "begun": to_json(self._begun),
            "keyed": None if self._keyed is None else self._keyed.to_dict(),
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
        if d["keyed"] is not None:
            out._spec = out._table_spec()
            out._keyed = KeyedModel.from_dict(out._spec, d["keyed"])
            out._state = out._keyed.state
        else:
            out._state = from_json(d["state"], ModelState)
        out._begun = from_json(d["begun"], Begun | None)  # type: ignore[arg-type]
        rows, weights, times = d["waiting"]
        out._waiting = rows, weights, times
        out.n_rejected = d["n_rejected"]
        return out


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    start = params.get("start")
    if isinstance(start, Mapping):
        return {**params, "start": {int(i): {str(f): float(v) for f, v in c.items()} for i, c in start.items()}}
    return params


def _copied(state: ModelState) -> ModelState:
    return from_json(to_json(state), ModelState)

"""`Segmenter` and `KMeans`: river clusterers over the model that the job runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec.structs import replace

from streamseg.core.model.model_file import FittedModel
from streamseg.core.model.spec import ModelFeature, ModelSpec, parse_forgetting, parse_speeds
from streamseg.estimators.model_clusterer import Centers, ModelClusterer


class Segmenter(ModelClusterer):
    """Online customer segmentation: running scaling inside the metric, k centers in the features' own units.

    Rows with a `key` are the latest pictures of customers: each customer counts once, and the model is the one that the job
    runs. Rows without are points, which `half_life` may fade.

    A scaler that moves moves no center: distances are scaled by variances that are frozen for an epoch, and renewed when
    the running ones have left them by a factor of 1.5.

    Parameters
    ----------
    features
        Names of the features; None takes those of the first row.
    n_segments
        Number of segments k, or "auto": as many as there are natural gaps for at the start (else the most stable number
        from 3 to 8), and new ones when they appear.
    half_life
        How fast the past fades: None (not at all), a number of rows' weight, or a duration of event time such as "30d".
        "auto": several compete, scored on every row before they learn it.
    warm_up
        Rows before the first centers (k-means++ with restarts); at least `n_segments`. They are learned, too.
    seed
        Seed of the first centers.
    start
        First centers, {segment_id: {feature: value}} in the features' units, or a fitted model; then there is no warm-up.
    max_gain
        Guard, under forgetting: one row moves a center by at most max(1/n, max_gain) of the way, twice as far where
        half-lives compete ("auto"). None turns it off.
    clip_sigmas
        Guard: a feature is learned as at most this many standard deviations from its center. None turns it off.
    max_ahead
        Guard: a lone event time further than this many seconds ahead weighs as the latest one. None turns it off.
    stickiness
        With keys: margin by which another segment must be nearer before a customer moves, from 0 to below 1.

    Examples
    --------
    >>> from streamseg import Segmenter
    >>> model = Segmenter(features=("age", "income"), n_segments=2, warm_up=4)
    >>> for age, income in [(20, 10), (22, 12), (60, 90), (61, 95), (21, 11)]:
    ...     model.learn_one({"age": age, "income": income})
    >>> model.predict_one({"age": 25, "income": 15}) == model.predict_one({"age": 20, "income": 9})
    True
    >>> model.predict_one({"age": 25}) # a feature is missing
    -1

    With keys the model is updated every 500 rows, and by `close_step`:

    >>> of_customers = Segmenter(features=("age", "income"), n_segments=2, warm_up=4)
    >>> of_customers.learn_many([[20, 10], [22, 12], [60, 90], [61, 95], [62, 95]], keys=["a", "b", "c", "d", "d"])
    >>> of_customers.close_step()
    >>> sorted(of_customers.weights.values()) # d counts once
    [2.0, 2.0]
    >>> of_customers.segment_of("a") == of_customers.segment_of("b")
    True
    """

    def __init__(
        self,
        features: tuple[str, ...] | None = ("age", "income", "purchases"),
        n_segments: int | str = 5,
        half_life: float | str | None = None,
        warm_up: int = 1000,
        seed: int = 0,
        start: Centers | FittedModel | None = None,
        max_gain: float | None = 0.1,
        clip_sigmas: float | None = 8.0,
        max_ahead: float | None = 3600.0,
        stickiness: float = 0.05,
    ) -> None:
        self.features = features
        self.n_segments = n_segments
        self.half_life = half_life
        self.warm_up = warm_up
        self.seed = seed
        self.start = start
        self.max_gain = max_gain
        self.clip_sigmas = clip_sigmas
        self.max_ahead = max_ahead
        self.stickiness = stickiness
        if isinstance(features, str):
            raise ValueError("features must be a sequence of names, not one string")
        self._begin(features)

    def _make_spec(self, names: tuple[str, ...], warm_up: int | None = None) -> ModelSpec:
        return ModelSpec(
            tuple(ModelFeature(name) for name in names),
            None if self.n_segments == "auto" else _count("n_segments", self.n_segments),
            parse_forgetting(self.half_life),
            parse_speeds(self.half_life),
            warm_up or _count("warm_up", self.warm_up),
            _count("seed", self.seed),
            self.max_gain,
            self.clip_sigmas,
            self.max_ahead,
            refits="auto" in (self.n_segments, self.half_life),
        )

    def _table_spec(self) -> ModelSpec:
        if self.half_life is not None:
            raise ValueError("with keys a row takes the place of its customer's last one, so half_life has no meaning")
        spec = self._make_spec(self._spec.names)
        return replace(spec, refits=True, table=True, stickiness=self.stickiness)

    def _given_start(self) -> Centers | FittedModel | None:
        return self.start

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"features": None, "n_segments": 3, "warm_up": 20}


class KMeans(ModelClusterer):
    """Online k-means on inputs that are scaled already, such as those of a `StandardScaler` before it.

    The same learning as `Segmenter`, with every variance taken as 1 and no guards. Features are those of the first row.

    Parameters
    ----------
    n_clusters
        Number of clusters k.
    half_life
        None (each center is the mean of its rows), a number of rows' weight, or a duration of event time.
    warm_up
        Rows before the first centers; at least `n_clusters`.
    seed
        Seed of the first centers.
    start
        First centers, {cluster: {feature: value}}; then there is no warm-up.

    Examples
    --------
    >>> from streamseg import KMeans, StandardScaler
    >>> model = StandardScaler() | KMeans(n_clusters=2, warm_up=4)
    >>> for x in [1, 2, 50, 51, 1, 49]:
    ...     model.learn_one({"x": x})
    >>> model.predict_one({"x": 0}) != model.predict_one({"x": 60})
    True
    """

    def __init__(
        self,
        n_clusters: int = 5,
        half_life: float | str | None = None,
        warm_up: int = 1000,
        seed: int = 0,
        start: Centers | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.half_life = half_life
        self.warm_up = warm_up
        self.seed = seed
        self.start = start
        self._begin(None)

    def _make_spec(self, names: tuple[str, ...], warm_up: int | None = None) -> ModelSpec:
        return ModelSpec(
            tuple(ModelFeature(name) for name in names),
            _count("n_clusters", self.n_clusters),
            parse_forgetting(self.half_life),
            parse_speeds(self.half_life),
            warm_up or _count("warm_up", self.warm_up),
            _count("seed", self.seed),
            max_gain=None,
            clip_sigmas=None,
            max_ahead=None,
            unit_metric=True,
        )

    def _given_start(self) -> Centers | None:
        return self.start

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"n_clusters": 3, "warm_up": 20}


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return int(value)

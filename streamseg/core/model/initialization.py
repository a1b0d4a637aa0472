"""First centers: from a warm-up, or from a warm start (a fitted model, or centers from elsewhere)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamseg.core.model.model_file import FittedModel
from streamseg.core.model.names import names_of
from streamseg.core.model.new_segments import check_labels
from streamseg.core.model.records import Start
from streamseg.core.model.rules import rules_of
from streamseg.core.model.segment_count import choose
from streamseg.core.model.spec import CUSTOMERS_PER_SEGMENT, MAX_SEGMENTS, WARM_UP_EVENTS_FACTOR, ModelFeature, ModelSpec
from streamseg.core.model.state import Metric, ModelState, Profile, Segment, profile_of, traits_of, unsettled_metric
from streamseg.core.numeric.clusters import Centers, means_of
from streamseg.core.numeric.moments import Moments, moments_of_rows
from streamseg.core.numeric.portable_math import exp2, signed_log1p
from streamseg.core.numeric.seeding import kmeans_labels, trimmed_band
from streamseg.core.numeric.types import Array, Ints

# There is room for later ones above it.
_LARGEST_ID = 2**62


def warm_up_over(state: ModelState, spec: ModelSpec, *, input_ended: bool = False) -> bool:
    """Whether the first centers are due."""
    if state.ready or state.warm_up.postponed == state.warm_up.events:
        return False
    warm_up, customers = state.warm_up, len(state.warm_up.rows)
    if input_ended:
        return customers >= spec.least_segments
    lasted = state.clock - warm_up.first_s if warm_up.first_s is not None else 0.0
    if customers >= spec.warm_up:
        return True
    enough = customers >= CUSTOMERS_PER_SEGMENT * spec.least_segments
    return enough and (warm_up.events >= WARM_UP_EVENTS_FACTOR * spec.warm_up or lasted >= spec.max_warm_up_s)


def start_from_warm_up(state: ModelState, spec: ModelSpec, digest: bytes = b"") -> Start | None:
    """First centers by k-means++ on the latest row of each customer; None where fewer than k rows are distinct."""
    x, weights = _warm_rows(state, spec)
    n = spec.n_weighted
    x[:n] = clipped(x[:n], spec)
    moments = moments_of_rows(x, weights, n)
    metric = _frozen(spec, moments, state.metric.epoch + 1)
    inverse = metric.inverse(spec)
    seen = x[:n][inverse > 0.0]
    distinct = np.unique(seen, axis=1).shape[1] if len(seen) else 1
    if distinct < min(spec.least_segments, 2 if spec.n_segments is None else MAX_SEGMENTS):
        return None
    ids, labels, natural = _chosen(state, x[:n], inverse, spec)
    centers = means_of(x[:n], labels, weights, len(ids))
    if not centers.weights.all():
        # Customers whose weight has faded to nothing still are where they are.
        plain = means_of(x[:n], labels, np.ones_like(weights), len(ids))
        centers.centers = np.where(centers.weights > 0.0, centers.centers, plain.centers)
    segments = _named(spec, ids, centers.centers, metric, {}, state.version + 1)
    profile = profile_of(x[n:], labels, weights, len(ids))
    rules = rules_of(x[:n], labels, ids, spec) if spec.refits or spec.make else {}
    return Start(state.version, digest, segments, centers, profile, moments, metric, natural, rules)


def clipped(x: Array, spec: ModelSpec) -> Array:
    """Rows (n_weighted, n_rows) within what is believable of each feature. IN all."""
    if spec.clip_sigmas is None:
        return x
    low, high = trimmed_band(x, spec.clip_sigmas)
    # A category that few customers have is rare, and no typo.
    low, high = np.where(spec.categories, -np.inf, low), np.where(spec.categories, np.inf, high)
    return np.minimum(np.maximum(x, low[:, None]), high[:, None])


def _chosen(state: ModelState, x: Array, inverse: Array, spec: ModelSpec) -> tuple[list[int], Ints, bool | None]:
    """Segment ids, places of rows among them, and whether there are valleys between them, where that was asked."""
    natural = None
    if state.external is not None:
        found, labels = np.unique(state.external.predict(x, spec), return_inverse=True)
        check_labels(len(found))
        return found.tolist(), labels, None
    if spec.n_segments is None:
        k, labels, natural = choose(x, inverse, spec.seed)
    else:
        k, labels = spec.n_segments, kmeans_labels(x, inverse, spec.n_segments, spec.seed)
    return list(range(state.next_id, state.next_id + k)), _by_size(labels, k), natural


def start_from_centers(spec: ModelSpec, centers: Mapping[int, Mapping[str, float]]) -> Start:
    """A warm start from centers alone, of weight 0. Raises ValueError."""
    ids = _checked_ids(spec, centers)
    array = np.array([[float(centers[i][name]) for i in ids] for name in spec.names[: spec.n_weighted]])
    if not np.isfinite(array).all():
        raise ValueError("a starting center has a value that is not finite")
    k = len(ids)
    profile = Profile.empty(len(spec.features) - spec.n_weighted, k)
    moments = Moments.empty(len(spec.features))
    metric = _frozen(spec, moments, 1) if spec.unit_metric else unsettled_metric(moments, array, 1)
    segments = _named(spec, ids, array, metric, {}, 1)
    return Start(0, b"", segments, Centers(array, np.zeros(k), np.zeros(k)), profile, moments, metric)


def start_from_fitted(spec: ModelSpec, model: FittedModel) -> Start:
    """A warm start from a model file: its centers, sizes and moments. Raises ValueError where features differ."""
    by_name = {feature.name: feature for feature in model.features}
    missing = [feature.name for feature in spec.features if feature.weight > 0 and feature.name not in by_name]
    if missing:
        raise ValueError(f"the model was fitted without the feature {missing[0]!r}; it has {sorted(by_name)}")
    if (model.scaling == "none") != spec.unit_metric:
        raise ValueError(f"the model was fitted with scaling {model.scaling!r}: set model.scaling = {model.scaling!r}")
    beyond = sorted(by_name.keys() - {feature.name for feature in spec.features})
    if beyond:
        raise ValueError(
            f"the model was fitted with the feature {beyond[0]!r} too; the features here are {sorted(spec.names)}"
        )
    for feature in spec.features:
        fitted = by_name.get(feature.name)
        if fitted is not None and fitted.transform != feature.transform:
            raise ValueError(f"feature {feature.name!r} was fitted with transform {fitted.transform!r}")
    ids = _checked_ids(spec, {segment.id: segment.center for segment in model.segments})
    by_id = {segment.id: segment for segment in model.segments}
    n = spec.n_weighted
    array = np.array([[by_id[i].center[name] for i in ids] for name in spec.names[:n]])
    sizes = np.array([by_id[i].size for i in ids], dtype=np.float64)
    profile = Profile.empty(len(spec.features) - n, len(ids))
    moments = Moments.empty(len(spec.features))
    for j, name in enumerate(spec.names):
        if name in by_name:
            fitted = by_name[name]
            moments.weight[j], moments.mean[j] = fitted.count, fitted.mean
            moments.m2[j] = fitted.variance * fitted.count
    metric = _frozen(spec, moments, 1)
    names = {i: by_id[i].name for i in ids}
    given = [name for name in names.values() if name]
    if len(set(given)) < len(given):
        raise ValueError("two segments of the model have the same name")
    segments = _named(spec, ids, array, metric, names, 1)
    return Start(0, b"", segments, Centers(array, sizes, sizes.copy()), profile, moments, metric)


def _frozen(spec: ModelSpec, moments: Moments, epoch: int) -> Metric:
    variance = np.ones(len(spec.features)) if spec.unit_metric else moments.variance()
    return Metric(epoch, True, moments.mean.copy(), variance)


def _checked_ids(spec: ModelSpec, centers: Mapping[int, Mapping[str, float]]) -> list[int]:
    if not 1 <= len(centers) <= MAX_SEGMENTS:
        raise ValueError(f"a start has 1 to {MAX_SEGMENTS} centers, not {len(centers)}")
    for segment_id, center in centers.items():
        if isinstance(segment_id, bool) or not isinstance(segment_id, int) or not 0 <= segment_id <= _LARGEST_ID:
            raise ValueError(f"segment ids are integers from 0 to {_LARGEST_ID}, not {segment_id!r}")
        missing = [name for name in spec.names[: spec.n_weighted] if name not in center]
        if missing:
            raise ValueError(f"the starting center {segment_id} lacks the feature {missing[0]!r}")
    if spec.n_segments is not None and len(centers) != spec.n_segments:
        raise ValueError(f"the start has {len(centers)} centers, n_segments is {spec.n_segments}")
    return sorted(centers)


def _warm_rows(state: ModelState, spec: ModelSpec) -> tuple[Array, Array]:
    """Rows (n_features, n_rows) and their weights, as of now. The order is that of the customers' last events."""
    rows = state.warm_up.rows.values()
    x = np.array([row for _, _, row in rows], dtype=np.float64).reshape(len(rows), len(spec.features)).T.copy()
    silent = np.maximum([0.0 if at is None else state.clock - at for _, at, _ in rows], 0.0)
    for feature, values in zip(spec.features, x, strict=True):
        if feature.ages:
            values[:] = _aged(feature, values, silent)
    weights = np.array([w for w, _, _ in rows])
    if spec.forgetting.unit != "none":
        now = state.age if spec.forgetting.unit == "weight" else state.clock
        at = np.array([now if at is None else at for _, at, _ in rows], dtype=np.float64)
        weights = weights * exp2(np.minimum(at - now, 0.0) / spec.forgetting.half_life)
    return x, weights


def _aged(feature: ModelFeature, values: Array, silent: Array) -> Array:
    """Values of customers who have been silent for some seconds since. IN all, (n_rows,)."""
    raw = feature.raw(values)
    if feature.half_life_s is not None:
        raw = raw * exp2(-silent / feature.half_life_s)
    raw = raw + feature.per_day * (silent / 86_400.0)
    return signed_log1p(raw) if feature.transform == "log1p" else raw


def _by_size(labels: Ints, k: int) -> Ints:
    """Labels renumbered by falling size, so that ids do not depend on how k-means numbered them."""
    sizes = np.bincount(labels, minlength=k)
    rank = np.empty(k, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(k)
    return rank[labels]


def _named(
    spec: ModelSpec, ids: list[int], centers: Array, metric: Metric, given: Mapping[int, str], version: int
) -> list[Segment]:
    names = names_of(traits_of(spec, centers, metric))
    return [Segment(i, given.get(i) or name, version) for i, name in zip(ids, names, strict=True)]

"""What the model says of a customer: segment, distance, how sure, why. Reads the state, never changes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.core.model.new_segments import places_of, with_unnamed
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.model.table import FAR, far_off
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import Nearest, driver_shares, margin, nearest
from streamseg.core.numeric.metric import squared_distances_between
from streamseg.core.numeric.types import Array, Flags, Ints

# Below this weight a segment's histogram says nothing yet.
_OUTLIER_MIN_WEIGHT = 100.0


class Tags(NamedTuple):
    """For each row: places in the champion's centers, and what an assignment says. NaN where there is no runner-up.

    `state` is that of the model; where an external one gave new labels, with segments for them.
    """

    state: ModelState
    near: Nearest
    segment_ids: Ints
    distance: Array
    runner_up_ids: Ints
    margin: Array
    outlier: Flags

    def take(self, places: Ints | slice) -> Tags:
        """Some of the rows, in the order of `places`."""
        return Tags(
            self.state,
            self.near.take(places),
            self.segment_ids[places],
            self.distance[places],
            self.runner_up_ids[places],
            self.margin[places],
            self.outlier[places],
        )


class Quality(NamedTuple):
    """Sums over rows that were tagged before they were learned.

    Attributes:
        rows, outliers: counts.
        squared: squared distance to the center; silhouette: (d2 - d1) / d2 with the distances to the two nearest centers
            (the simplified silhouette, Hruschka et al. 2006), 0 where there is one center only.
    """

    rows: int = 0
    squared: float = 0.0
    silhouette: float = 0.0
    outliers: int = 0

    def plus(self, other: Quality) -> Quality:
        return Quality(
            self.rows + other.rows,
            self.squared + other.squared,
            self.silhouette + other.silhouette,
            self.outliers + other.outliers,
        )


def quality_of(tags: Tags) -> Quality:
    own, other = np.sqrt(tags.near.squared), np.sqrt(tags.near.runner_up_squared)
    farther = np.maximum(own, other)
    known = np.isfinite(farther) & (farther > 0.0)
    share = np.where(known, other - own, 0.0) / np.where(known, farther, 1.0)
    return Quality(len(own), float(tags.near.squared.sum()), float(share.sum()), int(np.count_nonzero(tags.outlier)))


def tag(state: ModelState, spec: ModelSpec, x: Array) -> Tags:
    """Tags of rows. IN x (n_features, n_rows) with weighted features complete. Only where the state is ready."""
    n, inverse = spec.n_weighted, state.metric.inverse(spec)
    if state.external is None:
        return _told(state, inverse, nearest(x[:n], state.tagging.centers.centers, inverse), x)
    ids = state.external.predict(x[:n], spec)
    state = with_unnamed(state, x[:n], ids)
    tags = _told(state, inverse, nearest(x[:n], state.tagging.centers.centers, inverse), x)
    return Holder(state, spec).tags(x, tags, places_of(state, ids))


def _told(state: ModelState, inverse: Array, near: Nearest, x: Array) -> Tags:
    ids = np.array([*state.ids, -1], dtype=np.int64)
    far = _far(state, near)
    return Tags(
        state,
        near,
        ids[near.labels],
        np.sqrt(near.squared),
        ids[near.runner_up],
        margin(near, squared_distances_between(state.tagging.centers.centers, inverse)),
        far if state.population is None else far | state.population.outliers(x),
    )


class Holder:
    """Stickiness: a customer stays in its segment until another one is nearer by more than a little margin.

    How far one is beyond the halfway point between two centers is `(d_own^2 - d_near^2) / |c_own - c_near|^2`: 0 at it, 1
    at the other center.
    """

    def __init__(self, state: ModelState, spec: ModelSpec) -> None:
        self._spec, self._centers, self._inverse = spec, state.tagging.centers.centers, state.metric.inverse(spec)
        self._between = squared_distances_between(self._centers, self._inverse)
        self._state = state

    def held(self, x: Array, near: Nearest, previous: Ints) -> Ints:
        """Places (n_rows,) of the segments that rows stay in: `previous` (ids) where that holds them, else the nearest.

        IN x (n_features, n_rows), near, previous.
        """
        if self._spec.stickiness <= 0.0:
            return near.labels
        own = places_of(self._state, previous)
        rows = np.flatnonzero((own >= 0) & (own != near.labels))
        if not len(rows):
            return near.labels
        off = x[: self._spec.n_weighted, rows] - self._centers[:, own[rows]]
        squared = np.add.reduce(off * off * self._inverse[:, None], axis=0)
        beyond = squared - near.squared[rows]
        stay = rows[beyond <= self._spec.stickiness * self._between[own[rows], near.labels[rows]]]
        labels = near.labels.copy()
        labels[stay] = own[stay]
        return labels

    def tags(self, x: Array, tags: Tags, labels: Ints) -> Tags:
        """The tags of rows that are in `labels`, the nearest center being the runner-up of those that are held.

        IN x (n_features, n_rows), tags, labels.
        """
        held = np.flatnonzero(labels != tags.near.labels)
        if not len(held):
            return tags
        near = tags.near.take(np.arange(len(labels)))
        off = x[: self._spec.n_weighted, held] - self._centers[:, labels[held]]
        near.runner_up[held], near.runner_up_squared[held] = near.labels[held], near.squared[held]
        near.labels[held], near.squared[held] = labels[held], np.add.reduce(off * off * self._inverse[:, None], axis=0)
        return _told(self._state, self._inverse, near, x)


def drivers(state: ModelState, spec: ModelSpec, x: Array, near: Nearest) -> tuple[Array, Array]:
    """(z, share), each (n_weighted, n_rows): standard deviations from the mean, and `driver_shares`. IN x, near."""
    n = spec.n_weighted
    deviation = np.sqrt(state.metric.variance[:n])
    safe = np.where(deviation > 0.0, deviation, np.inf)
    z = (x[:n] - state.metric.origin[:n, None]) / safe[:, None]
    return z, driver_shares(x[:n], near, state.tagging.centers.centers, state.metric.inverse(spec))


def kept_segment_of(state: ModelState, spec: ModelSpec, x: Array, previous: Ints) -> Ints:
    """Segment ids (n_rows,) of customers who are in segments `previous` and stay there if that holds them. IN all."""
    if state.external is not None:
        return state.external.predict(x[: spec.n_weighted], spec)
    near = nearest(x[: spec.n_weighted], state.tagging.centers.centers, state.metric.inverse(spec))
    return np.array(state.ids, dtype=np.int64)[Holder(state, spec).held(x, near, previous)]


def _far(state: ModelState, near: Nearest) -> Flags:
    if state.radii is not None:
        return far_off(near.squared, near.labels, state.radii)
    weight = np.add.reduce(state.histogram, axis=1)
    limit = np.where(weight >= _OUTLIER_MIN_WEIGHT, FAR * histogram.quantile(state.histogram, 0.95), np.inf)
    return np.greater(near.squared, limit[near.labels])


def radii_of(state: ModelState) -> tuple[Array, Array]:
    """Median and 95th percentile of each segment's squared distances, (k,) each; NaN where that is not known."""
    if state.radii is not None:
        return state.radii[0], state.radii[1]
    return histogram.quantile(state.histogram, 0.5), histogram.quantile(state.histogram, 0.95)

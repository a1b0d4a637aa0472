"""What the model says of a customer: segment, distance, how sure, why. Reads the state, never changes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.kernel import histogram
from streamseg.kernel.clusters import Nearest, driver_shares, margin, nearest
from streamseg.kernel.metric import squared_distances_between
from streamseg.kernel.types import Array, Flags, Ints
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState

# An outlier lies beyond this many times the 95th percentile of its segment's squared distances.
_OUTLIER_FACTOR = 2.0
# Below this weight a segment's histogram says nothing yet.
_OUTLIER_MIN_WEIGHT = 100.0


class Tags(NamedTuple):
    """For each row: places in the champion's centers, and what an assignment says. NaN where there is no runner-up."""

    near: Nearest
    segment_ids: Ints
    distance: Array
    runner_up_ids: Ints
    margin: Array
    outlier: Flags

    def take(self, places: Ints | slice) -> Tags:
        """Some of the rows, in the order of `places`."""
        return Tags(
            self.near.take(places),
            self.segment_ids[places],
            self.distance[places],
            self.runner_up_ids[places],
            self.margin[places],
            self.outlier[places],
        )


def tag(state: ModelState, spec: ModelSpec, x: Array) -> Tags:
    """Tags of rows. IN x (n_features, n_rows) with weighted features complete. Only where the state is ready."""
    champion = state.tagging
    centers, inverse = champion.centers.centers, state.metric.inverse(spec)
    near = nearest(x[: spec.n_weighted], centers, inverse)
    ids = np.array([*champion.ids, -1], dtype=np.int64)
    return Tags(
        near,
        ids[near.labels],
        np.sqrt(near.squared),
        ids[near.runner_up],
        margin(near, squared_distances_between(centers, inverse)),
        near.squared > _outlier_limit(champion.histogram)[near.labels],
    )


def drivers(state: ModelState, spec: ModelSpec, x: Array, near: Nearest) -> tuple[Array, Array]:
    """(z, share), each (n_weighted, n_rows): standard deviations from the mean, and share of d2^2 - d1^2. IN x, near."""
    n = spec.n_weighted
    deviation = np.sqrt(state.metric.variance[:n])
    safe = np.where(deviation > 0.0, deviation, np.inf)
    z = (x[:n] - state.metric.origin[:n, None]) / safe[:, None]
    return z, driver_shares(x[:n], near, state.tagging.centers.centers, state.metric.inverse(spec))


def segment_of(state: ModelState, spec: ModelSpec, x: Array) -> Ints:
    """Segment ids alone, (n_rows,). IN x as in `tag`."""
    near = nearest(x[: spec.n_weighted], state.tagging.centers.centers, state.metric.inverse(spec))
    return np.array(state.tagging.ids, dtype=np.int64)[near.labels]


def _outlier_limit(counts: Array) -> Array:
    weight = np.add.reduce(counts, axis=1)
    return np.where(weight >= _OUTLIER_MIN_WEIGHT, _OUTLIER_FACTOR * histogram.quantile(counts, 0.95), np.inf)

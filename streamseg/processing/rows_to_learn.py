"""What a partition's events teach: rows for the model, or, while it warms up, the latest row of each customer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamseg.features.fold import Fold
from streamseg.kernel.types import Array, Ints
from streamseg.processing.logs import customer_hash, sample_key
from streamseg.records.events import Decoded


class ToLearn(NamedTuple):
    """Rows that the model learns: `x` (n_rows_of_model, n), weights, event times in seconds.

    `latest`: places of each customer's latest row, and `sample_keys` that stand for those customers. `given`: ids of the
    segments that they were tagged with.
    """

    x: Array
    w: Array
    t: Array
    latest: Ints
    sample_keys: Callable[[], list[int]]
    given: Ints


class ToWarmUp(NamedTuple):
    """A warm-up's share: times of all complete events, and the latest row of each customer.

    `at` are the rows' event times, `ages` the weight of events up to each, `age` that of all. `every`: each event's row.
    """

    times: Array
    keys: list[int]
    x: Array
    at: Array
    ages: Array
    age: float
    every: Array


def to_learn(folded: Fold, decoded: Decoded, given: Ints) -> ToLearn:
    rows = folded.complete
    latest = _latest(folded, np.flatnonzero(rows))
    latest = np.sort(latest[latest > _latest(folded, np.flatnonzero(decoded.erase))])

    def keys() -> list[int]:
        return [sample_key(decoded.ids[i]) for i in latest.tolist()]

    if rows.all():
        return ToLearn(folded.x, folded.weight, decoded.times / 1e6, latest, keys, given)
    places = np.cumsum(rows)[latest] - 1
    return ToLearn(folded.x[:, rows], folded.weight[rows], decoded.times[rows] / 1e6, places, keys, given)


def to_warm_up(folded: Fold, decoded: Decoded) -> ToWarmUp:
    events = np.flatnonzero(folded.complete)
    latest = _latest(folded, events)
    rows = np.sort(latest[latest > _latest(folded, np.flatnonzero(decoded.erase))])
    keys = [customer_hash(decoded.ids[i]) for i in rows.tolist()]
    ages = np.cumsum(np.where(folded.complete, folded.weight, 0.0))
    every = folded.x[:, events]
    return ToWarmUp(
        decoded.times[events] / 1e6, keys, folded.x[:, rows], decoded.times[rows] / 1e6, ages[rows], ages[-1], every
    )


def _latest(folded: Fold, events: Ints) -> Ints:
    """The last of some events of each customer, (u,); -1 where there is none."""
    latest = np.full(len(folded.rows), -1)
    np.maximum.at(latest, folded.place[events], events)
    return latest

"""What a partition's batch teaches: changes of its customers, or, while the model warms up, the latest row of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.features.fold import Fold
from streamseg.kernel.types import Array, Flags, Ints
from streamseg.model.population import Sums
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.model.table import far_off
from streamseg.processing.logs import customer_hash
from streamseg.records.events import Decoded


class Offered(NamedTuple):
    """Rows for the panel: `keys` (n,), `x` (n_features, n), `places` (n,) of their segments, `far` (n,)."""

    keys: Ints
    x: Array
    places: Ints
    far: Flags


class TableShare(NamedTuple):
    """What a partition's customers add to a table's model, less what they added before.

    Attributes:
        sums: of the population; offered: rows for the panel; gone: (n,) keys of customers that it has and loses.
        times: (n_events,) seconds of accepted events; squared: (n_events,) their squared distances.
        every: (n_features, n_events) their rows.
    """

    sums: Sums
    offered: Offered
    gone: Ints
    times: Array
    squared: Array
    every: Array


class ToWarmUp(NamedTuple):
    """A warm-up's share: times of all complete events, and the latest row of each customer.

    `at` are the rows' event times. `every`: each event's row.
    """

    times: Array
    keys: list[int]
    x: Array
    at: Array
    every: Array


class Change(NamedTuple):
    """Customers before and after a batch, or a slice of a sweep. n customers.

    Attributes:
        keys: (n,); x, places: after, (n_features, n) and (n,), -1 for who does not count; old_x, old_places: before.
        evaluated: by how many more were seen in the epoch.
        shown: which are to be shown to the panel, (n,).
    """

    keys: Ints
    x: Array
    places: Ints
    old_x: Array
    old_places: Ints
    evaluated: int
    shown: Flags


def share_of(
    state: ModelState, spec: ModelSpec, changes: list[Change], times: Array, squared: Array, every: Array
) -> TableShare:
    """Sum up changes of customers. IN all; `times`, `squared` and `every` as in the result."""
    population = state.population
    assert population is not None
    k, n = len(state.segments), len(spec.features)
    sums = Sums.empty(n, n - spec.n_weighted, k)
    offered, gone = [], []
    for change in changes:
        now, then = change.places >= 0, change.old_places >= 0
        sums = sums.plus(population.contribution(change.x[:, now], change.places[now]))
        sums = sums.plus(population.contribution(change.old_x[:, then], change.old_places[then]), -1)
        sums.evaluated += change.evaluated
        rows = _offered(state, spec, change)
        offered.append(rows)
        assert state.panel is not None
        lost = state.panel.has(change.keys) & ~np.isin(change.keys, rows.keys) & change.shown
        gone.append(change.keys[lost])
    together = Offered(*(np.concatenate(parts, axis=-1) for parts in zip(*offered, strict=True)))
    return TableShare(sums, together, np.concatenate(gone), times, squared, every)


def _offered(state: ModelState, spec: ModelSpec, change: Change) -> Offered:
    panel, n = state.panel, spec.n_weighted
    assert panel is not None
    at = np.flatnonzero(change.shown & (change.places >= 0) & panel.may_include(change.keys))
    keys, x, places = change.keys[at], change.x[:, at], change.places[at]
    off = x[:n] - state.tagging.centers.centers[:, places]
    squared = np.add.reduce(off * off * state.metric.inverse(spec)[:, None], axis=0)
    far = far_off(squared, places, state.radii)
    kept = panel.includes(keys, places, far)
    return Offered(keys[kept], x[:, kept], places[kept], far[kept])


def to_warm_up(folded: Fold, decoded: Decoded) -> ToWarmUp:
    events = np.flatnonzero(folded.complete)
    latest = _latest(folded, events)
    rows = np.sort(latest[latest > _latest(folded, np.flatnonzero(decoded.erase))])
    keys = [customer_hash(decoded.ids[i]) for i in rows.tolist()]
    return ToWarmUp(decoded.times[events] / 1e6, keys, folded.x[:, rows], decoded.times[rows] / 1e6, folded.x[:, events])


def _latest(folded: Fold, events: Ints) -> Ints:
    """The last of some events of each customer, (u,); -1 where there is none."""
    latest = np.full(len(folded.rows), -1)
    np.maximum.at(latest, folded.place[events], events)
    return latest

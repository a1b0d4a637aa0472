"""What a partition's batch teaches: changes of its customers, or, while the model warms up, the latest row of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.core.customers.fold import Fold
from streamseg.core.model.population import Sums
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.model.table import CLIPPED_AT, far_off
from streamseg.core.numeric.types import Array, Flags, Ints
from streamseg.engine.log_records import customer_hash
from streamseg.formats.events import Decoded

# Accepted events in a block of losses, and the quantum of a loss.
BLOCK_EVENTS, _LOSS_QUANTUM = 125, 2.0**-20


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
        losses: (3, n) of accepted events in blocks: the block's number, how many are complete, the sum of their losses.
        every: (n_features, n_events) rows of complete events.
    """

    sums: Sums
    offered: Offered
    gone: Ints
    losses: Array
    every: Array


class ToWarmUp(NamedTuple):
    """A warm-up's share: the latest row of each customer, at event times `at`, and the row of every complete event."""

    keys: list[int]
    x: Array
    at: Array
    every: Array


class Change(NamedTuple):
    """Customers before and after a batch, or a slice of a sweep. n customers.

    Attributes:
        keys: (n,); x, places: after, (n_features, n) and (n,), -1 for who does not count; old_x, old_places: before.
        evaluated: by how many more were seen in the epoch.
        shown: which are to be shown to the panel, (n,); erased: who is no customer any more, (n,).
    """

    keys: Ints
    x: Array
    places: Ints
    old_x: Array
    old_places: Ints
    evaluated: int
    shown: Flags
    erased: Flags


def share_of(state: ModelState, spec: ModelSpec, changes: list[Change], losses: Array, every: Array) -> TableShare:
    """Sum up changes of customers. IN all; `losses` and `every` as in the result."""
    population = state.population
    assert population is not None
    sums = population.no_sums()
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
        gone.append(change.keys[lost | change.erased])
    together = Offered(*(np.concatenate(parts, axis=-1) for parts in zip(*offered, strict=True)))
    return TableShare(sums, together, np.concatenate(gone), losses, every)


def losses_of(state: ModelState, spec: ModelSpec, squared: Array, at: Ints) -> Array:
    """Losses of complete events, as in `TableShare`. IN all; `squared` (n,), `at` (n,): how many were accepted before each.

    Blocks, and a loss that is a multiple of a quantum, make the sums the same wherever a step is cut into batches.
    """
    # Before there is a mean: what one center for all would lose.
    most = CLIPPED_AT * (state.mean_loss or float(np.add.reduce(spec.feature_weight)))
    losses = np.rint(np.minimum(squared, most) / _LOSS_QUANTUM) * _LOSS_QUANTUM
    blocks, first = np.unique(at // BLOCK_EVENTS, return_index=True)
    if not len(blocks):
        return np.empty((3, 0))
    return np.array([blocks, np.diff([*first, len(at)]), np.add.reduceat(losses, first)], dtype=np.float64)


def joined_blocks(losses: list[Array]) -> Array:
    """Losses of batches in order, (2, n): events and sums, parts of one block together. IN all."""
    parts = np.concatenate([np.empty((3, 0)), *losses], axis=1)
    first = np.flatnonzero(np.diff(parts[0], prepend=-1.0) != 0.0)
    return np.add.reduceat(parts[1:], first, axis=1) if len(first) else parts[1:]


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
    return ToWarmUp(keys, folded.x[:, rows], decoded.times[rows] / 1e6, folded.x[:, events])


def _latest(folded: Fold, events: Ints) -> Ints:
    """The last of some events of each customer, (u,); -1 where there is none."""
    latest = np.full(len(folded.rows), -1)
    np.maximum.at(latest, folded.place[events], events)
    return latest

"""Segments along each customer's events: what it was before, whether it changed, since when, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.customers.fold import Fold
from streamseg.core.customers.table import NO_SEGMENT, TAG, CustomerTable
from streamseg.core.model.assignment import Holder, Tags, kept_segment_of
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Flags, Ints

# Why a customer entered its segment, by the number that the table stores.
REASONS = ("event", "model_update", "time")
MODEL_UPDATE, TIME = 1, 2


class Holding:
    """Which customers stay in their segment, in the order of their events. `places`: of each complete event's segment."""

    def __init__(self, state: ModelState, spec: ModelSpec, folded: Fold, complete: Ints, tags: Tags) -> None:
        self.holder, self._near, self.places = Holder(state, spec), tags.near, tags.near.labels.copy()
        self._x = folded.x
        self._ids = np.array(state.ids, dtype=np.int64)
        self._row = np.full(len(folded.place), -1)
        self._row[complete] = np.arange(len(complete))

    def __call__(self, events: Ints, labels: Ints, previous: Ints) -> Ints:
        """Labels (ids) of a round's events, given those of the nearest centers and the customers' segments. IN all."""
        moving = np.flatnonzero((labels != NO_SEGMENT) & (previous != NO_SEGMENT) & (labels != previous))
        if not len(moving):
            return labels
        at = events[moving]
        rows = self._row[at]
        places = self.holder.held(self._x[:, at], self._near.take(rows), previous[moving])
        self.places[rows] = places
        out = labels.copy()
        out[moving] = self._ids[places]
        return out


class Walk(NamedTuple):
    """For each event, (n,).

    Attributes:
        labels: segment ids, -1 where the event has none; previous: the customer's segment before the event.
        changed: labels differ from previous; entered_at: microseconds; reasons: places in `REASONS`.
        prior: the customer's event before, or -1.
    """

    labels: Ints
    previous: Ints
    changed: Flags
    entered_at: Ints
    reasons: Ints
    prior: Ints


# Labels of a round's events: which events, the nearest segments' ids, the customers' segments before.
Hold = Callable[[Ints, Ints, Ints], Ints]


def walk(folded: Fold, labels: Ints, times: Ints, erase: Flags, hold: Hold | None = None) -> Walk:
    """Follow each customer through its events, with reason "event" everywhere. `hold` may change labels; IN the others."""
    n = len(labels)
    segment, entered = folded.segment.copy(), folded.entered_at.copy()
    last = np.full(len(folded.rows), -1)
    out = Walk(
        labels, np.empty(n, np.int64), np.empty(n, np.bool_), np.empty(n, np.int64), np.zeros(n, np.int64),
        np.empty(n, np.int64),
    )  # fmt: skip
    for batch in folded.rounds:
        at = folded.place[batch]
        out.previous[batch] = segment[at]
        if hold is not None:
            labels[batch] = hold(batch, labels[batch], segment[at])
        out.prior[batch] = last[at]
        changed = (labels[batch] != NO_SEGMENT) & (labels[batch] != segment[at])
        out.changed[batch] = changed
        segment[at] = np.where(changed, labels[batch], segment[at])
        entered[at] = np.where(changed, times[batch], entered[at])
        out.entered_at[batch] = entered[at]
        last[at] = batch
        gone = at[erase[batch]]
        segment[gone] = NO_SEGMENT
        last[gone] = -1
    return out


def tell_reasons(out: Walk, folded: Fold, table: CustomerTable, state: ModelState, spec: ModelSpec) -> None:
    """The own-event rule: where a moved customer's old vector would have moved too, it was not the event. INOUT out.reasons.

    It was the model, or, where the old vector as of the customer's last event stays, the time since then.
    """
    moved = np.flatnonzero(out.changed & (out.previous != NO_SEGMENT))
    if not len(moved):
        return
    prior = out.prior[moved]
    old = np.where(prior >= 0, folded.x[:, np.maximum(prior, 0)], folded.before[:, folded.place[moved]])
    known = ~np.isnan(old[: spec.n_weighted]).any(axis=0)
    moved, old = moved[known], old[:, known]
    if not len(moved):
        return
    moved = moved[kept_segment_of(state, spec, old, out.previous[moved]) != out.previous[moved]]
    out.reasons[moved] = MODEL_UPDATE
    stored = moved[out.prior[moved] < 0]
    if len(stored):
        alone = table.vectors(folded.rows[folded.place[stored]], NO_TIME)
        stays = kept_segment_of(state, spec, alone, out.previous[stored]) == out.previous[stored]
        out.reasons[stored[stays]] = TIME


def store_tags(out: Walk, folded: Fold, times: Ints, erase: Flags, epoch: int) -> None:
    """Put the customers' tags after the batch into their after-images. INOUT folded.state."""
    columns = folded.state
    for batch in folded.rounds:
        event = batch[out.changed[batch]]
        at = folded.place[event]
        columns["previous"][at] = out.previous[event]
        columns["segment"][at] = out.labels[event]
        columns["entered_at"][at] = times[event]
        columns["reason"][at] = out.reasons[event]
        gone = folded.place[batch[erase[batch]]]
        if len(gone):
            for spec in TAG:
                columns[spec.name][gone] = spec.empty
    columns["epoch"][:] = epoch

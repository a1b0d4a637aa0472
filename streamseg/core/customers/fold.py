"""Events to feature vectors: what each customer looks like right after each of its events.

Events of one customer go in order, one by one, so that what a customer becomes does not depend on how events were cut into
batches. Events are taken in rounds: round r holds the r-th event of each customer in the batch, all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from streamseg.core.customers.aggregates import Arrival, Column, update, value
from streamseg.core.customers.feature_layout import Layout
from streamseg.core.customers.table import CustomerTable, Rows, TableChange, customer_key
from streamseg.core.numeric.types import Array, Flags, Ints


class Events(NamedTuple):
    """Accepted events in order, as columns.

    Attributes:
        ids: customer ids; times: event times in microseconds; erase: which events erase their customer.
        values: field to numbers (n_events,), NaN where absent; a text field gives strings or None.
    """

    ids: list[str]
    times: Ints
    erase: Flags
    values: dict[str, Array]
    texts: dict[str, list[str | None]]


class Fold(NamedTuple):
    """What the events of a batch make of their customers. u customers, n events.

    Attributes:
        rows: (u,) row numbers; place: (n,) the event's customer among them.
        rounds: for each round the events in it.
        x: (n_model_rows, n) the customer right after the event; complete: (n,) no weighted feature missing.
        before: (n_model_rows, u) the customers before the batch; was_complete: (u,).
        new_rows, new_ids: customers that the table does not have.
        erased: (u,) customers whose last event erased them.
        segment, entered_at, epoch: (u,) before the batch; last: (u,) the customer's last event.
        state: the customers after the batch, by column; the job adds their tags.
    """

    rows: Ints
    place: Ints
    rounds: list[Ints]
    x: Array
    complete: Flags
    before: Array
    was_complete: Flags
    new_rows: Ints
    new_ids: list[str]
    erased: Flags
    segment: Ints
    entered_at: Ints
    epoch: Ints
    last: Ints
    state: dict[str, Column]

    def change(self) -> TableChange:
        """What the batch does to the table. Of customers that it erased nothing is kept."""
        if not self.erased.any():
            return TableChange(Rows(self.rows, self.new_rows, self.new_ids, self.state), self.rows[:0], None)
        gone = set(self.rows[self.erased].tolist())
        new = [(row, name) for row, name in zip(self.new_rows.tolist(), self.new_ids, strict=True) if row not in gone]
        kept = ~self.erased
        touched = Rows(
            self.rows[kept],
            np.array([row for row, _ in new], dtype=np.int64),
            [name for _, name in new],
            {name: column[kept] for name, column in self.state.items()},
        )
        known = np.setdiff1d(self.rows[self.erased], self.new_rows)
        return TableChange(touched, known, None)


def fold(table: CustomerTable, events: Events, boundary: int) -> Fold:
    """Fold events into copies of their customers' rows. Changes nothing. IN all.

    `boundary` (microseconds): customers are seen as of the later of their last event and this.
    """
    layout = table.layout
    row_of, new_rows, new_ids = _rows_of(table, events.ids)
    rows, place = np.unique(row_of, return_inverse=True)
    state = table.gather(rows)
    segment, entered_at, epoch = (state[name].astype(np.int64) for name in ("segment", "entered_at", "epoch"))
    state["key"][np.searchsorted(rows, new_rows)] = [customer_key(customer_id) for customer_id in new_ids]
    erased = np.zeros(len(rows), dtype=np.bool_)
    columns = [[state[spec.name] for spec in specs] for specs in layout.columns]
    values = [_values(layout, i, events) for i in range(len(layout.features))]
    everyone = np.arange(len(rows))
    before = layout.model_rows(_raw(layout, columns, everyone, state["time"], boundary))
    was_complete = _complete(before, layout)
    raw = np.empty((len(layout.features), len(events.ids)))
    last = np.zeros(len(rows), dtype=np.int64)
    rounds = list(_rounds(place))
    for batch in rounds:
        at = place[batch]
        time: Ints = events.times[batch]
        known = state["time"][at].astype(np.int64, copy=False)
        arrival = Arrival(time, known, np.maximum(time, known))
        for feature, own, numbers in zip(layout.features, columns, values, strict=True):
            update(feature, own, at, numbers[batch], arrival)
        state["time"][at] = arrival.now
        last[at] = batch
        raw[:, batch] = _raw(layout, columns, at, state["time"], boundary)
        erased[at] = events.erase[batch]
        _forget_erased(table, state, at[events.erase[batch]])
    x = layout.model_rows(raw)
    complete = _complete(x, layout) & ~events.erase
    return Fold(
        rows, place, rounds, x, complete, before, was_complete, new_rows, new_ids, erased, segment, entered_at, epoch, last,
        state,
    )  # fmt: skip


def _rows_of(table: CustomerTable, ids: list[str]) -> tuple[Ints, Ints, list[str]]:
    """Row of each event, and rows and ids of customers that are new. Changes nothing."""
    get = table.index.get
    rows = np.array([get(customer_id, -1) for customer_id in ids], dtype=np.int64)
    unknown = np.flatnonzero(rows < 0).tolist()
    new_ids = list(dict.fromkeys([ids[i] for i in unknown]))
    given = dict(zip(new_ids, table.next_rows(len(new_ids)), strict=True))
    rows[unknown] = [given[ids[i]] for i in unknown]
    return rows, np.array(list(given.values()), dtype=np.int64), new_ids


def _rounds(place: Ints) -> Iterator[Ints]:
    """Events by how many earlier ones of the batch their customer has. IN place."""
    order = np.argsort(place, kind="stable")
    grouped = place[order]
    starts = np.flatnonzero(np.concatenate(([True], grouped[1:] != grouped[:-1]))) if len(place) else order
    rank = np.empty(len(place), dtype=np.int64)
    lengths = np.diff(np.append(starts, len(place)))
    rank[order] = np.arange(len(place)) - np.repeat(starts, lengths)
    by_rank = np.argsort(rank, kind="stable")
    first = 0
    for end in np.cumsum(np.bincount(rank)).tolist() if len(rank) else []:
        yield by_rank[first:end]
        first = end


def _values(layout: Layout, i: int, events: Events) -> Array:
    feature = layout.features[i]
    if feature.every_event:
        return np.ones(len(events.ids))
    if feature.categories:
        code = {category: float(j) for j, category in enumerate(feature.categories)}
        return np.array([np.nan if text is None else code.get(text, -1.0) for text in events.texts[feature.field]])
    return events.values[feature.field]


def _raw(layout: Layout, columns: list[list[Column]], at: Ints, time: Column, boundary: int) -> Array:
    raw = np.empty((len(layout.features), len(at)))
    then: Ints = time[at].astype(np.int64, copy=False)
    as_of = np.maximum(then, boundary)
    for i, (feature, own) in enumerate(zip(layout.features, columns, strict=True)):
        raw[i] = value(feature, own, at, then, as_of)
    return raw


def _complete(x: Array, layout: Layout) -> Flags:
    missing: Flags = np.logical_or.reduce(np.isnan(x[: layout.n_weighted]), axis=0)
    return ~missing


def _forget_erased(table: CustomerTable, state: dict[str, Column], at: Ints) -> None:
    if len(at):
        for spec in table.specs:
            if spec.name != "key":
                state[spec.name][at] = spec.empty

"""Sweeps over stored customers: when one starts, and what it, or an event, changes of a customer's contribution.

A row and the number of the sweep that last evaluated it determine what the row added to the sums of its segment. Any worker
that has the row can subtract exactly that.
"""

from __future__ import annotations

import numpy as np

from streamseg.core.customers.fold import Fold
from streamseg.core.customers.table import NO_SEGMENT, CustomerTable
from streamseg.core.model.assignment import kept_segment_of
from streamseg.core.model.new_segments import places_of
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.types import Array, Flags, Ints
from streamseg.engine.log_records import Mark, Sweep
from streamseg.engine.segment_trace import MODEL_UPDATE, TIME
from streamseg.engine.settings import JobSettings
from streamseg.engine.training_rows import Change


def next_sweep(mark: Mark, state: ModelState, settings: JobSettings, n_rows: int, *, ended: bool = False) -> Sweep:
    """The sweep that a batch works on: the one under way, or a new one where model or time have moved on.

    A change of the model restarts a sweep; time, and the model's passes, wait until it is done. `ended`: the input has, and
    all customers are seen as of its latest event, instead of the last whole period.
    """
    sweep = mark.sweep
    if not state.ready:
        return sweep
    as_of, every_s = sweep.as_of, settings.retag_every_s
    if every_s is not None and state.clock != NEVER:
        latest = state.clock if ended else state.clock // every_s * every_s
        as_of = max(as_of, int(latest * 1e6))
    same = state.epoch == sweep.model_epoch
    if same and (sweep.active or (as_of, state.passes) == (sweep.as_of, sweep.passes)):
        return sweep
    return Sweep(
        sweep.epoch + 1,
        state.epoch,
        as_of,
        0,
        n_rows,
        state.passes,
        before=sweep.epoch,
        before_as_of=sweep.as_of,
        same=same,
    )


class StoredCustomers:
    """Stored customers as they were last evaluated, and as this batch evaluates them. Changes nothing."""

    def __init__(self, table: CustomerTable, state: ModelState, settings: JobSettings, sweep: Sweep) -> None:
        self._table, self._state, self._settings, self._sweep = table, state, settings, sweep

    def of_events(self, folded: Fold) -> Change:
        """The change of customers that have events in the batch. IN folded, with their tags after the batch."""
        before, seen = folded.before, self.seen(folded.epoch)
        earlier = np.flatnonzero(seen & (folded.epoch != self._sweep.epoch))
        if len(earlier) and self._settings.layout.fades:
            before = before.copy()
            before[:, earlier] = self._table.vectors(folded.rows[earlier], self._sweep.before_as_of)
        lives = ~folded.erased
        time = folded.state["time"].astype(np.int64)
        segment = folded.state["segment"].astype(np.int64)
        counts = lives & folded.complete[folded.last] & self._active(time, self._sweep.as_of)
        counted = seen & folded.was_complete
        if self._settings.model.active_within is not None and len(counted):
            known = np.flatnonzero(counted)
            then: Ints = self._table.column("time")[folded.rows[known]].astype(np.int64)
            counted[known] &= self._active(then, self._boundaries(folded.epoch[known]))
        return Change(
            folded.state["key"].astype(np.int64),
            folded.x[:, folded.last],
            np.where(counts, places_of(self._state, segment), -1),
            before,
            np.where(counted, places_of(self._state, folded.segment), -1),
            int(np.count_nonzero(lives)) - int(np.count_nonzero(seen)),
            np.ones(len(lives), dtype=np.bool_),
            folded.erased,
        )

    def seen(self, epoch: Ints) -> Flags:
        """Which rows were seen in this epoch of the model, (n,). IN epoch: sweeps that they were seen in."""
        seen: Flags = epoch == self._sweep.epoch
        if self._sweep.same:
            seen |= epoch == self._sweep.before
        return seen

    def _boundaries(self, epoch: Ints) -> Ints:
        return np.where(epoch == self._sweep.epoch, self._sweep.as_of, self._sweep.before_as_of)

    def _active(self, time: Ints, boundary: int | Ints) -> Flags:
        """Which customers count, as of the later of their last event and `boundary`, (n,). IN all, microseconds."""
        within = self._settings.model.active_within
        if within is None:
            return np.ones(len(time), dtype=np.bool_)
        return np.less_equal(np.maximum(time, boundary) - time, round(within * 1e6))

    def of_slice(self, rows: Ints, epoch: Ints, x: Array, previous: Ints, segment: Ints, unseen: int) -> Change:
        """The change of customers in a slice of the sweep. IN all.

        `rows`, `epoch`, `previous`, `segment` (n,): of the table, the sweep that last evaluated them, and segment ids before
        and after; `x` (n_features, n): as evaluated now; `unseen`: how many are evaluated for the first time in the epoch.
        """
        table, seen = self._table, self.seen(epoch)
        time: Ints = table.column("time")[rows].astype(np.int64)
        fades = self._settings.layout.fades and self._sweep.as_of != self._sweep.before_as_of
        old_x = table.vectors(rows, self._sweep.before_as_of) if fades and seen.any() else x
        counts, counted = self._active(time, self._sweep.as_of), seen & self._active(time, self._sweep.before_as_of)
        key = table.column("key")[rows].astype(np.int64)
        assert self._state.panel is not None
        same = seen & (segment == previous) & (counts == counted) & self._state.panel.has(key)
        return Change(
            key,
            x,
            np.where(counts, places_of(self._state, segment), -1),
            old_x,
            np.where(counted, places_of(self._state, previous), -1),
            unseen,
            ~same if not fades else np.ones(len(rows), dtype=np.bool_),
            np.zeros(len(rows), dtype=np.bool_),
        )

    def reasons(self, rows: Ints, previous: Ints, epoch: Ints) -> Ints:
        """Why a sweep moved customers, (n,): `time`, where this model would have left them as they were seen before."""
        reasons = np.full(len(rows), MODEL_UPDATE)
        if not self._settings.layout.fades or self._sweep.as_of == self._sweep.before_as_of:
            return reasons
        known = np.flatnonzero((epoch == self._sweep.before) & (previous != NO_SEGMENT))
        if len(known):
            old = self._table.vectors(rows[known], self._sweep.before_as_of)
            stays = kept_segment_of(self._state, self._settings.model, old, previous[known]) == previous[known]
            reasons[known[stays]] = TIME
        return reasons

"""The customer table: columns for each feature, a row for each customer.

Nothing changes a table but `apply`, which takes what a committed batch left behind: the touched rows as they are
afterwards. A batch works on a copy of its rows, so an aborted one costs nothing, and a restored table went through the
same function. Row numbers are for life; the row of an erased customer is given to the next new one, lowest first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from streamseg.features.aggregates import NO_TIME, Column, ColumnSpec, value
from streamseg.features.layout import Layout
from streamseg.kernel.types import Array, Ints

NO_SEGMENT = -1

# What the job knows of a customer beside its features.
COMMON = [
    ColumnSpec("time", "<i8", NO_TIME),
    ColumnSpec("segment", "<i4", NO_SEGMENT),
    ColumnSpec("previous", "<i4", NO_SEGMENT),
    ColumnSpec("entered_at", "<i8", NO_TIME),
    ColumnSpec("reason", "<i1", 0),
    ColumnSpec("epoch", "<i4", -1),
]
_GROWTH = 1.2


class Rows(msgspec.Struct):
    """Rows of a table by number, with all their columns; `ids` only where the row is new (in the order of `rows`)."""

    rows: Ints
    new_rows: Ints
    new_ids: list[str]
    columns: dict[str, Column]

    def halves(self) -> tuple[Rows, Rows]:
        """For a snapshot, where every row is new."""
        middle = len(self.rows) // 2
        return tuple(
            Rows(self.rows[part], self.new_rows[part], self.new_ids[part], {n: c[part] for n, c in self.columns.items()})
            for part in (slice(None, middle), slice(middle, None))
        )  # type: ignore[return-value]


class Retag(msgspec.Struct):
    """A slice of a sweep: rows [first, end) are at `epoch` now; `rows` changed their segment."""

    first: int
    end: int
    epoch: int
    rows: Ints
    segment: Ints
    entered_at: int
    reason: int


class TableChange(msgspec.Struct):
    """What a batch did to a table."""

    touched: Rows
    erased: Ints
    retag: Retag | None = None


class CustomerTable:
    """Customers of one partition."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.specs: list[ColumnSpec] = COMMON + [column for columns in layout.columns for column in columns]
        self.ids: list[str | None] = []
        self.index: dict[str, int] = {}
        self.free: list[int] = []
        self._capacity = 0
        self._columns = {spec.name: np.empty(0, dtype=spec.dtype) for spec in self.specs}

    def __len__(self) -> int:
        """Rows, free ones included."""
        return len(self.ids)

    @property
    def n_customers(self) -> int:
        return len(self.index)

    def column(self, name: str) -> Column:
        """A view of a column, one place for each row."""
        return self._columns[name][: len(self.ids)]

    def next_rows(self, n: int) -> list[int]:
        """The rows that the next n new customers take. Changes nothing."""
        reused = heapq.nsmallest(n, self.free)
        return reused + list(range(len(self.ids), len(self.ids) + n - len(reused)))

    def empty_rows(self, n: int) -> dict[str, Column]:
        return {spec.name: np.full(n, spec.empty, dtype=spec.dtype) for spec in self.specs}

    def gather(self, rows: Ints) -> dict[str, Column]:
        """Copies of rows; those of customers that are not there yet are empty."""
        if not len(self.ids):
            return self.empty_rows(len(rows))
        known = rows < len(self.ids)
        taken = np.where(known, rows, 0)
        if known.all():
            return {name: column[rows] for name, column in self._columns.items()}
        return {
            spec.name: np.where(known, self._columns[spec.name][taken], np.array(spec.empty, dtype=spec.dtype))
            for spec in self.specs
        }

    def vectors(self, rows: Ints, boundary: int) -> Array:
        """The model's rows of customers as of the later of their last event and `boundary` (microseconds)."""
        time = self._columns["time"][rows]
        as_of = np.maximum(time, boundary)
        raw = np.empty((len(self.layout.features), len(rows)))
        for i, (feature, specs) in enumerate(zip(self.layout.features, self.layout.columns, strict=True)):
            raw[i] = value(feature, [self._columns[spec.name] for spec in specs], rows, time, as_of)
        return self.layout.model_rows(raw)

    def apply(self, change: TableChange) -> None:
        """The one way to change a table. IN change."""
        if change.retag is not None:
            self._apply_retag(change.retag)
        self.put(change.touched)
        for row in change.erased.tolist():
            self._erase(row)

    def put(self, rows: Rows) -> None:
        """Overwrite rows, adding new customers. IN rows."""
        if len(rows.new_rows):
            self._add(rows.new_rows.tolist(), rows.new_ids)
        for name, values in rows.columns.items():
            self._columns[name][rows.rows] = values

    def _add(self, new_rows: Sequence[int], new_ids: Sequence[str]) -> None:
        last = max(new_rows)
        if last >= self._capacity:
            self._grow(last + 1)
        if last >= len(self.ids):
            if new_rows[0] == len(self.ids) and len(new_rows) == last + 1 - len(self.ids):
                self.ids.extend(new_ids)
                self.index.update(zip(new_ids, new_rows, strict=True))
                return
            reused = set(self.free).union(new_rows)
            grown = range(len(self.ids), last + 1)
            self.ids.extend([None] * len(grown))
            for row in grown:
                if row not in reused:
                    heapq.heappush(self.free, row)
        taken = set(new_rows)
        if self.free and not taken.isdisjoint(self.free):
            self.free = [row for row in self.free if row not in taken]
            heapq.heapify(self.free)
        for row, customer_id in zip(new_rows, new_ids, strict=True):
            self.ids[row] = customer_id
            self.index[customer_id] = row

    def extend(self, n_rows: int) -> None:
        """Make the table `n_rows` long; the added rows are free. For a snapshot whose last customers were erased."""
        for row in range(len(self.ids), n_rows):
            self.ids.append(None)
            heapq.heappush(self.free, row)
        if n_rows > self._capacity:
            self._grow(n_rows)

    def _grow(self, needed: int) -> None:
        capacity = max(needed, int(self._capacity * _GROWTH), 1024)
        for spec in self.specs:
            grown = np.empty(capacity, dtype=spec.dtype)
            grown[: self._capacity] = self._columns[spec.name]
            grown[self._capacity :] = spec.empty
            self._columns[spec.name] = grown
        self._capacity = capacity

    def _erase(self, row: int) -> None:
        customer_id = self.ids[row]
        if customer_id is None:
            return
        del self.index[customer_id]
        self.ids[row] = None
        heapq.heappush(self.free, row)
        for spec in self.specs:
            self._columns[spec.name][row] = spec.empty

    def _apply_retag(self, retag: Retag) -> None:
        epoch = self._columns["epoch"]
        epoch[retag.first : retag.end] = retag.epoch
        epoch[self.free] = COMMON[-1].empty
        rows = retag.rows
        if len(rows):
            self._columns["previous"][rows] = self._columns["segment"][rows]
            self._columns["segment"][rows] = retag.segment
            self._columns["entered_at"][rows] = retag.entered_at
            self._columns["reason"][rows] = retag.reason

    def chunks(self, max_rows: int) -> Iterator[Rows]:
        """All customers in pieces, for a snapshot."""
        for first in range(0, len(self.ids), max_rows):
            there = [row for row in range(first, min(first + max_rows, len(self.ids))) if self.ids[row] is not None]
            rows = np.array(there, dtype=np.int64)
            ids = [self.ids[row] for row in there]
            if there and len(there) == there[-1] + 1 - there[0]:
                block = slice(there[0], there[-1] + 1)
                columns = {name: column[block] for name, column in self._columns.items()}
            else:
                columns = {name: column[rows] for name, column in self._columns.items()}
            yield Rows(rows, rows, [customer_id for customer_id in ids if customer_id is not None], columns)

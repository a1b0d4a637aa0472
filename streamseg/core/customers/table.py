"""The customer table: columns for each feature, a row for each customer.

A row's columns lie side by side in memory: a batch touches customers at random, and each is one look at memory, not one for
each column.

Nothing changes a table but `apply`, which takes what a committed batch left behind: the touched rows as they are
afterwards. A batch works on a copy of its rows, so an aborted one costs nothing, and a restored table went through the
same function. Row numbers are for life; the row of an erased customer is given to the next new one, lowest first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec
import numpy as np

from streamseg.core.customers.aggregates import NO_TIME, Column, ColumnSpec, value
from streamseg.core.customers.feature_layout import Layout
from streamseg.core.numeric.types import Array, Ints

NO_SEGMENT = -1
_NO_EPOCH = -1

# What the job knows of a customer beside its features.
COMMON = [
    ColumnSpec("time", "<i8", NO_TIME),
    ColumnSpec("segment", "<i4", NO_SEGMENT),
    ColumnSpec("previous", "<i4", NO_SEGMENT),
    ColumnSpec("entered_at", "<i8", NO_TIME),
    ColumnSpec("reason", "<i1", 0),
    ColumnSpec("epoch", "<i4", _NO_EPOCH),
    ColumnSpec("key", "<u4", 0),
]
# ... of which these are its tag.
TAG = COMMON[1:-1]
_GROWTH = 1.2


def customer_key(customer_id: str) -> int:
    """32 bits that stand for a customer, in which ids that are close lie far apart (Knuth's multiplicative hash, twice)."""
    mixed = (crc32(customer_id.encode()) * 2654435761) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF


class Rows(msgspec.Struct):
    """Rows of a table by number, with all their columns; `ids` only where the row is new (in the order of `rows`)."""

    rows: Ints
    new_rows: Ints
    new_ids: list[str]
    columns: dict[str, Column]

    def halves(self) -> tuple[Rows, Rows]:
        """For a snapshot, where every row is new."""
        middle = len(self.rows) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> Rows:
        columns = {name: column[part] for name, column in self.columns.items()}
        return Rows(self.rows[part], self.new_rows[part], self.new_ids[part], columns)


class Retag(msgspec.Struct):
    """A slice of a sweep: rows [first, end) are at `epoch` now; `rows` changed their segment, for one reason each."""

    first: int
    end: int
    epoch: int
    rows: Ints
    segment: Ints
    entered_at: int
    reason: Ints


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
        by_size = sorted(self.specs, key=lambda spec: -np.dtype(spec.dtype).itemsize)
        self._dtype = np.dtype([(spec.name, spec.dtype) for spec in by_size], align=True)
        self._empty = np.array([tuple(spec.empty for spec in by_size)], dtype=self._dtype)
        self._records = np.empty(0, dtype=self._dtype)

    def __len__(self) -> int:
        """Rows, free ones included."""
        return len(self.ids)

    @property
    def n_customers(self) -> int:
        return len(self.index)

    def column(self, name: str) -> Column:
        """A view of a column, one place for each row."""
        view: Column = self._records[name][: len(self.ids)]
        return view

    def next_rows(self, n: int) -> list[int]:
        """The rows that the next n new customers take. Changes nothing."""
        reused = heapq.nsmallest(n, self.free)
        return reused + list(range(len(self.ids), len(self.ids) + n - len(reused)))

    def empty_rows(self, n: int) -> dict[str, Column]:
        return {spec.name: np.full(n, spec.empty, dtype=spec.dtype) for spec in self.specs}

    def gather(self, rows: Ints) -> dict[str, Column]:
        """Copies of rows; those of customers that are not there yet are empty."""
        known = rows < len(self.ids)
        if known.all():
            return self._split(self._records[rows])
        records = np.repeat(self._empty, len(rows))
        records[known] = self._records[rows[known]]
        return self._split(records)

    def _split(self, records: Column) -> dict[str, Column]:
        return {spec.name: np.ascontiguousarray(records[spec.name]) for spec in self.specs}

    def vectors(self, rows: Ints, boundary: int) -> Array:
        """The model's rows of customers as of the later of their last event and `boundary` (microseconds)."""
        columns = self._split(self._records[rows])
        everyone = np.arange(len(rows))
        time = columns["time"]
        as_of = np.maximum(time, boundary)
        raw = np.empty((len(self.layout.features), len(rows)))
        for i, (feature, specs) in enumerate(zip(self.layout.features, self.layout.columns, strict=True)):
            raw[i] = value(feature, [columns[spec.name] for spec in specs], everyone, time, as_of)
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
        records = np.empty(len(rows.rows), dtype=self._dtype)
        for name, values in rows.columns.items():
            records[name] = values
        self._records[rows.rows] = records

    def _add(self, new_rows: Sequence[int], new_ids: Sequence[str]) -> None:
        last = max(new_rows)
        if last >= len(self._records):
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
        if n_rows > len(self._records):
            self._grow(n_rows)

    def _grow(self, needed: int) -> None:
        before = len(self._records)
        # In place, so that growing needs no second table; views of columns live no longer than one call.
        self._records.resize(max(needed, int(before * _GROWTH), 1024), refcheck=False)
        self._records[before:] = self._empty

    def _erase(self, row: int) -> None:
        customer_id = self.ids[row]
        if customer_id is None:
            return
        del self.index[customer_id]
        self.ids[row] = None
        heapq.heappush(self.free, row)
        self._records[row] = self._empty[0]

    def _apply_retag(self, retag: Retag) -> None:
        epoch = self._records["epoch"]
        epoch[retag.first : retag.end] = retag.epoch
        epoch[self.free] = _NO_EPOCH
        rows = retag.rows
        if len(rows):
            self._records["previous"][rows] = self._records["segment"][rows]
            self._records["segment"][rows] = retag.segment
            self._records["entered_at"][rows] = retag.entered_at
            self._records["reason"][rows] = retag.reason

    def chunks(self, max_rows: int) -> Iterator[Rows]:
        """All customers in pieces, for a snapshot."""
        for first in range(0, len(self.ids), max_rows):
            there = [row for row in range(first, min(first + max_rows, len(self.ids))) if self.ids[row] is not None]
            rows = np.array(there, dtype=np.int64)
            ids = [self.ids[row] for row in there]
            columns = self._split(self._records[rows])
            yield Rows(rows, rows, [customer_id for customer_id in ids if customer_id is not None], columns)

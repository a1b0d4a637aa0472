"""Aggregates over a customer's events.

Each keeps a few columns. Decayed columns are as of the customer's latest event (`time`), so a late event is added with
what is left of its weight: sums, counts, means and maxima do not depend on the order of arrival. `last` keeps the time of
its value, and an older event does not overwrite it. `gap` (mean days between events) telescopes: an event between two
others splits a gap, so only the number of gaps changes; with a half-life the split is approximate, as the parts would fade
apart. `recency` is days since the last event at the time of evaluation, so it grows while a customer is silent.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.core.numeric.portable_math import exp2
from streamseg.core.numeric.types import Array, Flags, Ints

AggregateName = Literal["last", "count", "sum", "mean", "max", "gap", "recency"]
Column = npt.NDArray[Any]

NO_TIME = -(2**62)
_US_PER_DAY = 86_400e6


class Feature(msgspec.Struct, frozen=True):
    """One configured feature.

    Attributes:
        field: dotted path into the event.
        period_us: how often silent customers are seen; recency is as of the end of such a period, for all alike.
        every_event: for `count`, `gap` and `recency` without a field of their own: each event counts.
        half_life_s: seconds of event time.
        categories: names of a one-hot text field; empty for a number.
    """

    name: str
    field: str
    aggregate: AggregateName = "last"
    half_life_s: float | None = None
    transform: Literal["none", "log1p"] = "none"
    weight: float = 1.0
    categories: tuple[str, ...] = ()
    every_event: bool = False
    period_us: int = 0

    @property
    def fades(self) -> bool:
        """Whether its value changes while a customer is silent."""
        return self.aggregate == "recency" or (self.half_life_s is not None and self.aggregate in ("count", "sum"))


class ColumnSpec(NamedTuple):
    name: str
    dtype: str
    empty: float


class Arrival(NamedTuple):
    """Events of distinct customers. Times in microseconds.

    Attributes:
        time: of the event; before: the customer's latest time until now (`NO_TIME`: none).
        now: the larger of both, which decayed columns are as of afterwards.
    """

    time: Ints
    before: Ints
    now: Ints


_COLUMNS: dict[str, list[ColumnSpec]] = {
    "last": [ColumnSpec("value", "<f8", np.nan), ColumnSpec("time", "<i8", NO_TIME)],
    "count": [ColumnSpec("sum", "<f8", 0.0)],
    "sum": [ColumnSpec("sum", "<f8", np.nan)],
    "mean": [ColumnSpec("mean", "<f8", np.nan), ColumnSpec("weight", "<f8", 0.0)],
    "max": [ColumnSpec("max", "<f8", np.nan)],
    "gap": [
        ColumnSpec("mean", "<f8", np.nan),
        ColumnSpec("weight", "<f8", 0.0),
        ColumnSpec("first", "<i8", NO_TIME),
        ColumnSpec("last", "<i8", NO_TIME),
    ],
    "recency": [ColumnSpec("last", "<i8", NO_TIME)],
}


def columns_of(feature: Feature) -> list[ColumnSpec]:
    """The columns of a feature, named "feature.column"."""
    return [column._replace(name=f"{feature.name}.{column.name}") for column in _COLUMNS[feature.aggregate]]


def update(feature: Feature, columns: list[Column], at: Ints, values: Array, arrival: Arrival) -> None:
    """Add one event to each of distinct customers. INOUT columns at places `at`, IN values (NaN where absent)."""
    there = ~np.isnan(values)
    if feature.aggregate == "last":
        value, time = columns
        newer = there & (arrival.time >= time[at])
        value[at[newer]] = values[newer]
        time[at[newer]] = arrival.time[newer]
    elif feature.aggregate == "max":
        columns[0][at] = np.fmax(columns[0][at], values)
    elif feature.aggregate == "recency":
        columns[0][at] = np.where(there, np.maximum(columns[0][at], arrival.time), columns[0][at])
    else:
        fading = _fading(feature, arrival.now, arrival.before)
        late = _fading(feature, arrival.now, arrival.time)
        if feature.aggregate == "gap":
            _update_gap(columns, at, there, arrival.time, fading, late)
            return
        added = np.where(there, 1.0 if feature.aggregate == "count" else values, 0.0) * late
        if feature.aggregate == "mean":
            _update_mean(columns[0], columns[1], at, fading, added, np.where(there, late, 0.0))
            return
        total = columns[0][at].astype(np.float64) * fading
        if feature.aggregate == "sum":
            total = np.where(there & np.isnan(total), 0.0, total)
        columns[0][at] = total + added


def _update_mean(mean: Column, weight: Column, at: Ints, fading: Array, added: Array, added_weight: Array) -> None:
    """Add to decayed means. INOUT mean, weight. A mean whose weight has faded to nothing stays what it was."""
    old = np.where(weight[at] > 0.0, mean[at], 0.0) * (weight[at] * fading)
    total = weight[at] * fading + added_weight
    known = (added_weight > 0.0) & (total > 0.0)
    mean[at] = np.where(known, (old + added) / np.where(known, total, 1.0), mean[at])
    weight[at] = total


def _update_gap(columns: list[Column], at: Ints, there: Flags, time: Ints, fading: Array, late: Array) -> None:
    mean, weight, first, last = columns
    known = last[at] != NO_TIME
    after = there & known & (time >= last[at])
    before = there & known & (time < first[at])
    gap = np.where(after, time - last[at], np.where(before, first[at] - time, 0)) / _US_PER_DAY
    _update_mean(mean, weight, at, fading, gap * late, np.where(there & known, late, 0.0))
    first[at] = np.where(before | (there & ~known), time, first[at])
    last[at] = np.where(after | (there & ~known), time, last[at])


def value(feature: Feature, columns: list[Column], at: Ints | slice, time: Ints, as_of: Ints) -> Array:
    """The feature's value, before `transform`, NaN where missing. IN all; `time` is what columns are as of."""
    if feature.aggregate == "recency":
        last: Ints = columns[0][at].astype(np.int64, copy=False)
        # Who was here since the last sweep would else be at exactly 0, and a group of its own.
        end = as_of if not feature.period_us else (as_of // feature.period_us + 1) * feature.period_us
        return np.where(last == NO_TIME, np.nan, (end - np.where(last == NO_TIME, end, last)) / _US_PER_DAY)
    first: Array = columns[0][at].astype(np.float64, copy=False)
    if feature.aggregate in ("count", "sum"):
        return first * _fading(feature, as_of, time)
    return first


def _fading(feature: Feature, later: Ints, earlier: Ints) -> Array:
    """What is left of a weight of `earlier` at `later`; 1 where there is no earlier. IN all."""
    if feature.half_life_s is None:
        return np.ones(len(later))
    seconds = np.where(earlier == NO_TIME, 0, later - earlier) / 1e6
    return exp2(-seconds / feature.half_life_s)

"""The sums that a table's centers are made of: those of the customers as they are now.

A customer's row adds its contribution to the sums of its segment, and takes it back when the row changes: the center of a
segment is the mean of its members, whatever they did before. Contributions are rounded to multiples of a quantum and added
as integers, so that any order, grouping and undoing gives the same bits.

Sums belong to an epoch. They start empty, and each row is added when it is next evaluated: with an event, or by the sweep
that follows. Until then the centers at the start of the epoch stand in for the rows that are still missing::

    center_j = origin + (S_j + r_j (c0_j - origin)) / (W_j + r_j)        r_j = U d_j / (d_1 + .. + d_k)

with S_j, W_j the sums and counts, U the customers that were not seen yet in the epoch, and d_j = max(0, N share_j - W_j)
what segment j lacks of its share. After a complete sweep U is 0, and a center is the mean of its members exactly.

The raw values of log features are summed as further profile features: their centers are geometric means, and profiles show
arithmetic ones.
"""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np

from streamseg.core.numeric.portable_math import signed_expm1
from streamseg.core.numeric.types import Array, Flags, Ints

# A contribution is a multiple of 2^-30 standard deviations, rounded down to a power of two.
_QUANTUM_BITS = 30
# Customers farther off in any feature are not counted, in standard deviations; where none is known yet, the widest range.
BAND, _WIDEST = 30.0, 1000.0
# Rows whose sums are exact in floating point: 2^41 quanta each at most, 2^53 together.
_EXACT_ROWS = 4096
_MOST = 2.0**40
_NONE = np.zeros(0, dtype=np.int64)


class Sums(msgspec.Struct):
    """What rows add, or take back.

    Attributes:
        counts: (k,) customers; sums: (n_features + n_logged, k) in quanta of their features, relative to the origin.
        known: (n_profile + n_logged, k) customers that have a value of the feature.
        outliers: customers beyond the band; evaluated: all that were seen in the epoch, counted or not.
    """

    counts: Ints
    sums: Ints
    known: Ints
    outliers: int = 0
    evaluated: int = 0

    @classmethod
    def empty(cls, n_features: int, n_profile: int, k: int) -> Self:
        counts, sums = np.zeros(k, dtype=np.int64), np.zeros((n_features, k), dtype=np.int64)
        return cls(counts, sums, np.zeros((n_profile, k), dtype=np.int64))

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """IN both."""
        return Sums(
            self.counts + sign * other.counts,
            self.sums + sign * other.sums,
            self.known + sign * other.known,
            self.outliers + sign * other.outliers,
            self.evaluated + sign * other.evaluated,
        )


class Population(msgspec.Struct):
    """The sums of an epoch, and what it began with.

    Attributes:
        epoch: of the model's tags.
        logged: (n_logged,) features whose raw values are summed up, too, behind all others.
        origin, quantum: (n_features + n_logged,) what contributions are relative to, and multiples of.
        reach: (n_weighted,) how far from the origin a customer is counted.
        start: (n_weighted, k) the centers that the epoch began with; start_profile: (n_profile + n_logged, k) the means of
            the other features, NaN where there were none; share: (k,) of the customers, as expected then.
        expected: customers, at least.
        sums: of the rows seen in the epoch; what they add up to does not depend on their order.
        complete: all customers were seen once.
    """

    epoch: int
    origin: Array
    quantum: Array
    reach: Array
    start: Array
    start_profile: Array
    share: Array
    expected: float
    sums: Sums
    logged: Ints
    complete: bool = False

    @classmethod
    def for_epoch(
        cls, epoch: int, origin: Array, deviation: Array, *, settled: bool, grouped: Flags, start: Array, profile: Array,
        share: Array, expected: float, logged: Ints = _NONE,
    ) -> Self:  # fmt: skip
        """Of no rows. IN all; `profile` (n_profile, k).

        `origin`, `deviation`: (n_features,) of the metric; `grouped` (n_weighted,): categories of a one-hot field, which are
        0 or 1, so that one that few customers have is no outlier.
        """
        n = len(grouped)
        unit = np.where(deviation > 0.0, deviation, np.maximum(np.abs(origin), 1.0))
        unit[:n][grouped] = 1.0
        _, exponent = np.frexp(unit)
        reach = (BAND if settled else _WIDEST) * unit[:n]
        reach[deviation[:n] <= 0.0] = _WIDEST * unit[:n][deviation[:n] <= 0.0]
        k = start.shape[1]
        # About two deviations above the middle of the raw values.
        _, raw_exponent = np.frexp(signed_expm1(np.abs(origin[logged]) + 2.0 * deviation[logged]) + 1.0)
        exponent = np.concatenate([exponent, raw_exponent])
        n_more = len(origin) - n + len(logged)
        return cls(
            epoch,
            np.concatenate([origin, np.zeros(len(logged))]),
            np.ldexp(1.0, exponent - 1 - _QUANTUM_BITS),
            reach,
            start.copy(),
            np.concatenate([profile, np.full((len(logged), k), np.nan)]),
            share.copy(),
            expected,
            Sums.empty(n + n_more, n_more, k),
            logged,
        )

    @property
    def relative(self) -> tuple[Array, Array]:
        """Origin, and about a standard deviation, a power of two, of each feature, both (n_features, 1)."""
        n = len(self.origin) - len(self.logged)
        return self.origin[:n, None], self.quantum[:n, None] * 2.0**_QUANTUM_BITS

    def no_sums(self) -> Sums:
        """Of no rows."""
        n, k = self.n_weighted, self.start.shape[1]
        return Sums.empty(len(self.origin), len(self.origin) - n, k)

    @property
    def n_weighted(self) -> int:
        return len(self.reach)

    def outliers(self, x: Array) -> Flags:
        """Which rows are too far off to be counted, (n_rows,). IN x (n_features, n_rows)."""
        n = self.n_weighted
        off = np.abs(x[:n] - self.origin[:n, None])
        beyond: Flags = np.logical_or.reduce(off > self.reach[:, None], axis=0)
        return beyond

    def contribution(self, x: Array, places: Ints) -> Sums:
        """Of rows in segments. IN x (n_features, n_rows), weighted features complete; places (n_rows,) of the segments."""
        out = self.no_sums()
        beyond = self.outliers(x)
        out.outliers = int(np.count_nonzero(beyond))
        if out.outliers:
            x, places = x[:, ~beyond], places[~beyond]
        if len(self.logged):
            x = np.concatenate([x, signed_expm1(x[self.logged])])
        for first in range(0, len(places), _EXACT_ROWS):
            rows = slice(first, first + _EXACT_ROWS)
            self._add(out, x[:, rows], places[rows])
        return out

    def _add(self, out: Sums, x: Array, places: Ints) -> None:
        n, k = self.n_weighted, len(out.counts)
        quanta = np.rint((x - self.origin[:, None]) / self.quantum[:, None])
        out.counts += np.bincount(places, minlength=k)
        for i, row in enumerate(quanta):
            if i < n:
                out.sums[i] += np.bincount(places, row, k).astype(np.int64)
                continue
            # A value that is far beyond what the feature was like is not in its mean; NaN is no value.
            there = np.abs(row) < _MOST
            out.known[i - n] += np.bincount(places[there], minlength=k)
            out.sums[i] += np.bincount(places[there], row[there], k).astype(np.int64)

    def with_sums(self, more: Sums) -> Population:
        """IN both."""
        return msgspec.structs.replace(self, sums=self.sums.plus(more))

    def centers(self, customers: int) -> Array:
        """The centers in force, (n_weighted, k). `customers`: how many there are."""
        if self.sums.evaluated == 0:
            return self.start.copy()
        n, counts = self.n_weighted, self.sums.counts.astype(np.float64)
        missing = self._missing(customers)
        total = counts + missing
        added = self.sums.sums[:n] * self.quantum[:n, None] + missing * (self.start - self.origin[:n, None])
        there = total > 0.0
        return np.where(there, self.origin[:n, None] + added / np.where(there, total, 1.0), self.start)

    def _missing(self, customers: int) -> Array:
        """Of each segment, the customers that were not seen yet, as expected, (k,)."""
        unseen = max(float(customers), self.expected) - self.sums.evaluated
        lacks = np.maximum(0.0, max(float(customers), self.expected) * self.share - self.sums.counts)
        total = float(np.add.reduce(lacks))
        if unseen <= 0.0 or total <= 0.0:
            return np.zeros(len(lacks))
        return unseen * (lacks / total)

    def profile(self, customers: int) -> tuple[Array, Array]:
        """Of the profile features, and of raw values, the customers that have them, and their means, as `centers`.

        Both (n_profile + n_logged, k).
        """
        n = self.n_weighted
        known_at_start = ~np.isnan(self.start_profile)
        if self.sums.evaluated == 0:
            return known_at_start.astype(np.float64), np.where(known_at_start, self.start_profile, 0.0)
        missing = np.where(known_at_start, self._missing(customers), 0.0)
        total = self.sums.known.astype(np.float64) + missing
        from_start = np.where(known_at_start, self.start_profile - self.origin[n:, None], 0.0)
        added = self.sums.sums[n:] * self.quantum[n:, None] + missing * from_start
        there = total > 0.0
        means: Array = np.where(there, self.origin[n:, None] + added / np.where(there, total, 1.0), 0.0)
        return total, means

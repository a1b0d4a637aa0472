"""The panel: a sample of the customers as they are now, by a hash of their ids.

A customer is in it while its key is below the threshold of all, or that of its segment, or that of those far from their
center, so that rare segments and what may become one are seen. A threshold is 2^(32 - level). A level rises when there
are twice as many rows as wanted. It falls at the start of an epoch only, as the sweep that follows evaluates every customer:
otherwise the next customers to act would fill the gap. A row stands for 2^level customers (Horvitz and Thompson 1952).
Erasure and independent workers need no rule of their own.

Rows carry a 32-bit key of the customer instead of its id, to distinguish customers and to erase them.
"""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np

from streamseg.core.numeric.types import Array, Flags, Ints

# Rows wanted of all customers, of each segment, and of those far from their center.
ROWS, ROWS_EACH, FAR_ROWS = 2_000, 100, 200
KEY_BITS = 32
# The threshold that includes no customer.
_HIGHEST_LEVEL = KEY_BITS


class PanelRows(msgspec.Struct):
    """Rows for the panel, as a record holds them: `keys` (n,), `x` (n_features, n) relative to an origin, `places` (n,)."""

    keys: np.ndarray
    x: np.ndarray
    places: np.ndarray
    far: np.ndarray


class Panel(msgspec.Struct):
    """Rows by rising key.

    Attributes:
        keys: (n,); x: (n_features, n); places: (n,) of their segments; far: (n,) far from its center when it was seen.
        level: of all; levels: (k,) of the segments; far_level: of those far off.
    """

    keys: Ints
    x: Array
    places: Ints
    far: Flags
    level: int
    levels: Ints
    far_level: int

    @classmethod
    def empty(cls, n_features: int, k: int) -> Self:
        none = np.zeros(0, dtype=np.int64)
        return cls(none, np.zeros((n_features, 0)), none, none.astype(np.bool_), 0, np.zeros(k, dtype=np.int64), 0)

    @property
    def n_rows(self) -> int:
        return len(self.keys)

    @property
    def common(self) -> Flags:
        """Rows that stand for all customers alike, (n,)."""
        return self.keys < _below(self.level)

    @property
    def halves(self) -> Flags:
        """Which rows are in one half: a coin for each customer, the same at any time."""
        return (self.keys & 1).astype(np.bool_)

    @property
    def weights(self) -> Array:
        """How many customers each row stands for, (n,)."""
        return np.ldexp(1.0, self._level_of(self.places, self.far))

    def _level_of(self, places: Ints, far: Flags) -> Ints:
        own = np.minimum(self.levels[places], self.level)
        return np.where(far, np.minimum(own, self.far_level), own)

    def includes(self, keys: Ints, places: Ints, far: Flags) -> Flags:
        """Whether customers belong here, (n,). IN all."""
        return keys < _below(self._level_of(places, far))

    def may_include(self, keys: Ints) -> Flags:
        """Whether customers could belong here, whatever their segment, (n,)."""
        return keys < _below(min([self.level, self.far_level, *self.levels.tolist()]))

    def has(self, keys: Ints) -> Flags:
        """Which customers are here, (n,)."""
        at = np.minimum(np.searchsorted(self.keys, keys), max(0, self.n_rows - 1))
        return self.keys[at] == keys if self.n_rows else np.zeros(len(keys), dtype=np.bool_)

    def changed(self, rows: Panel, gone: Ints) -> Panel:
        """With other rows in place of those of the same customers, and without the customers `gone`. IN all.

        Another worker's batch may have raised a level since the rows were selected: those above it are left out.
        """
        stay = ~np.isin(self.keys, np.concatenate([rows.keys, gone]))
        rows = rows.take(self.includes(rows.keys, rows.places, rows.far))
        keys = np.concatenate([self.keys[stay], rows.keys])
        order = np.argsort(keys, kind="stable")
        return msgspec.structs.replace(
            self,
            keys=keys[order],
            x=np.concatenate([self.x[:, stay], rows.x], axis=1)[:, order],
            places=np.concatenate([self.places[stay], rows.places])[order],
            far=np.concatenate([self.far[stay], rows.far])[order],
        )

    def thinned(self) -> Panel:
        """With levels raised until no stratum is twice its size, and the rows that are left. IN self."""
        level = _raised(self.keys, self.level, ROWS)
        levels = self.levels.copy()
        for place in range(len(levels)):
            levels[place] = _raised(self.keys[self.places == place], int(levels[place]), ROWS_EACH)
        far_level = _raised(self.keys[self.far], self.far_level, FAR_ROWS)
        if (level, far_level) == (self.level, self.far_level) and (levels == self.levels).all():
            return self
        return msgspec.structs.replace(self, level=level, levels=levels, far_level=far_level)._filtered()

    def _filtered(self) -> Panel:
        return self.take(self.includes(self.keys, self.places, self.far))

    def take(self, which: Flags | Ints) -> Panel:
        """Some of the rows. IN self."""
        x = np.ascontiguousarray(self.x[:, which])
        return msgspec.structs.replace(self, keys=self.keys[which], x=x, places=self.places[which], far=self.far[which])

    def for_epoch(self, places: Ints, far: Flags, k: int) -> Panel:
        """In an epoch of k segments, in which the rows are in segments `places` (n,). IN all.

        Levels are those at which each stratum has about as many rows as wanted: the sweep brings the missing ones.
        """
        weights, common = self.weights, int(np.count_nonzero(self.common))
        level = self.level
        while level > 0 and 2 * common <= ROWS:
            level, common = level - 1, 2 * common
        sizes = np.bincount(places, weights, k)
        levels = np.array([_fitting(float(size), ROWS_EACH) for size in sizes], dtype=np.int64)
        far_level = _fitting(float(np.add.reduce(weights[far])), FAR_ROWS)
        started = msgspec.structs.replace(
            self, places=places.copy(), far=far.copy(), level=level, levels=levels, far_level=far_level
        )
        return started._filtered().thinned()


def _below(level: int | Ints) -> Ints:
    """The threshold of levels."""
    bound: Ints = np.int64(1) << (KEY_BITS - np.asarray(level, dtype=np.int64))
    return bound


def _raised(keys: Ints, level: int, wanted: int) -> int:
    """The level at which there are fewer than twice as many of these keys as wanted, `level` at least."""
    n = int(np.count_nonzero(keys < _below(level)))
    while n >= 2 * wanted and level < _HIGHEST_LEVEL:
        level += 1
        n = int(np.count_nonzero(keys < _below(level)))
    return level


def _fitting(size: float, wanted: int) -> int:
    """The level at which of so many customers between once and twice as many as wanted are in."""
    level = 0
    while size >= 2 * wanted:
        level, size = level + 1, size / 2
    return level

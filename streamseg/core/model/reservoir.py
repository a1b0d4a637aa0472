"""A bounded, time-biased sample of distinct customers: what refits, the valley gate and rules are made of.

Each customer has a priority: the position (learned weight) of its last event, plus a fixed random part that depends on who
it is. Keeping those of highest priority keeps each customer with a probability that halves with the weight that came after
it (Efraimidis and Spirakis 2006, with the exponential weights of forward decay), whatever the order and however the log was
cut. The 2,000 first are kept, and the 100 first of each segment, so that rare segments are seen. Rows carry a 32-bit hash of
the customer's id, to tell customers apart and to erase them; no id.
"""

from __future__ import annotations

import msgspec
import numpy as np

from streamseg.core.numeric.portable_math import log1p
from streamseg.core.numeric.types import Array, Flags, Ints

ROWS, ROWS_EACH = 2_000, 100
# Learned weight after which a customer stays in the sample half as likely.
HALF_LIFE = 500.0
_LN2 = 0.6931471805599453


class Sample(msgspec.Struct):
    """Rows by falling priority: `keys` (n,), `priority` (n,), `x` (n_features, n); of a customer the latest."""

    keys: Ints
    priority: Array
    x: Array

    @classmethod
    def empty(cls, n_features: int) -> Sample:
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((n_features, 0)))

    def take(self, places: Flags | Ints) -> Sample:
        return Sample(self.keys[places], self.priority[places], np.ascontiguousarray(self.x[:, places]))

    def without(self, keys: list[int]) -> Sample:
        return self.take(~np.isin(self.keys, np.array(keys, dtype=np.int64))) if keys else self

    @property
    def n_rows(self) -> int:
        return len(self.keys)

    @property
    def positions(self) -> Array:
        """Learned weight at each customer's last event, (n,): the priority without its random part."""
        return self.priority - priorities(self.keys, np.zeros(len(self.keys)))

    @property
    def halves(self) -> Flags:
        """Which rows are in one half: a coin for each customer, the same at any time."""
        return (_mixed(self.keys) >> 31).astype(np.bool_)


def priorities(keys: Ints, position: Array) -> Array:
    """Of customers whose last event is at `position`, (n,). IN all."""
    share = (_mixed(keys) + 0.5) / 4294967296.0
    # log2 of an exponential variable.
    waited = log1p((1.0 - share) / share)
    over = waited >= 1.0
    distance = np.where(over, waited, 1.0 / np.where(over, 1.0, waited)) - 1.0
    return position - HALF_LIFE * np.where(over, 1.0, -1.0) * log1p(distance) / _LN2


def merged(one: Sample, other: Sample) -> Sample:
    """Both, of each customer the row of higher priority. IN all."""
    keys, priority = np.concatenate([one.keys, other.keys]), np.concatenate([one.priority, other.priority])
    # Stable: quick where one is long and sorted, and the other short.
    order = np.argsort(-priority, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    kept = order[np.sort(first)]
    return Sample(keys[kept], priority[kept], np.concatenate([one.x, other.x], axis=1)[:, kept])


def trimmed(sample: Sample, labels: Ints, n_labels: int) -> Sample:
    """The first rows of all and of each label. IN sample, by falling priority, labels (n,)."""
    if sample.n_rows <= ROWS:
        return sample
    kept = np.arange(sample.n_rows) < ROWS
    for label in range(n_labels):
        kept[np.flatnonzero(labels == label)[:ROWS_EACH]] = True
    return sample.take(kept)


def _mixed(keys: Ints) -> Ints:
    """32 bits in which close keys lie far apart (Knuth's multiplicative hash, twice)."""
    mixed = (keys * 2654435761) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF

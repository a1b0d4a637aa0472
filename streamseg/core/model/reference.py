"""The customers that drift is measured against: those of the warm-up, or, after a warm start, the first that came.

Their rows ride along with the model, without ids, so that every worker and every restart compares with the same ones. They
change only where one of them is erased.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from streamseg.core.model.codec import Opaque, digest, pack, unpack
from streamseg.core.numeric.types import Array

# Rows that are kept.
ROWS = 2_000


class Reference(Opaque):
    """`keys` (n,) that stand for customers, `x` (n_features, n) with NaN where a profile feature is not known."""

    def __init__(self, keys: list[int], x: Array) -> None:
        self.keys, self.x = keys, x
        self._name = digest([keys, x])

    @property
    def n_rows(self) -> int:
        return len(self.keys)

    def without(self, keys: list[int]) -> Reference:
        """Without erased customers."""
        gone = set(keys)
        stay = [i for i, key in enumerate(self.keys) if key not in gone]
        if len(stay) == len(self.keys):
            return self
        return Reference([self.keys[i] for i in stay], np.ascontiguousarray(self.x[:, stay]))

    def to_bytes(self) -> bytes:
        return pack([self.keys, self.x])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        keys, x = unpack(data, tuple[list[int], Array])
        return cls(keys, x)

    def name(self) -> bytes:
        return self._name

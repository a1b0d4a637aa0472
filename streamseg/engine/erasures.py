"""Erasures that find somebody."""

from __future__ import annotations

import numpy as np

from streamseg.core.customers.table import CustomerTable
from streamseg.core.numeric.types import Ints
from streamseg.formats.events import Decoded


def found_erasures(decoded: Decoded, table: CustomerTable) -> Ints:
    """Places of the erasures whose customer is there: in the table, or since an event before it in the batch. IN all."""
    places = np.flatnonzero(decoded.erase).tolist()
    if not places:
        return np.empty(0, dtype=np.int64)
    there = {decoded.ids[i]: decoded.ids[i] in table.index for i in places}
    found = []
    for i, (customer, erases) in enumerate(zip(decoded.ids, decoded.erase.tolist(), strict=True)):
        if customer in there:
            if erases and there[customer]:
                found.append(i)
            there[customer] = not erases
    return np.array(found, dtype=np.int64)

"""Recent event ids of each customer, by which an event that is sent twice is recognized.

An id is remembered until a step of the model ends at which event time is a window beyond it, so what is remembered does not
depend on how the input was polled. An event is a repetition if its customer had an event with its id not further than a
window away, in event time. What is stored is a 64-bit hash (BLAKE2b) of each of both ids, and the event's time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.numeric.types import Flags, Ints

_HASH_BYTES = 8
# With fewer ids than these no memory is freed.
_FEW = 1_000


class SeenIds(msgspec.Struct):
    """Remembered ids, as columns: hashes of customers and events, and event times in microseconds."""

    customers: Ints
    events: Ints
    times: Ints


class SeenChange(msgspec.Struct):
    """What a batch adds; `erased`: hashes of customers whose ids are removed before that."""

    added: SeenIds
    erased: Ints


class Seen:
    """Recent event ids of a partition's customers."""

    def __init__(self) -> None:
        self._times: dict[bytes, int] = {}
        self._since, self._kept = NO_TIME, 0

    def __len__(self) -> int:
        return sum(time >= self._since for time in self._times.values())

    def sift(
        self, customers: Sequence[str], event_ids: Sequence[str | None], times: Ints, erase: Flags, window_us: int
    ) -> tuple[Flags, SeenChange]:
        """Which events (n,) are repetitions, and what the others add. Changes nothing. IN all; times in microseconds."""
        repeated: Flags = np.zeros(len(customers), dtype=np.bool_)
        added: dict[bytes, int] = {}
        erased: set[bytes] = set()
        for i, (customer, event, time) in enumerate(zip(customers, event_ids, times.tolist(), strict=True)):
            if not erase[i] and event is None:
                continue
            owner = _hash(customer)
            if erase[i]:
                erased.add(owner)
                added = {key: there for key, there in added.items() if not key.startswith(owner)}
                continue
            key = owner + _hash(str(event))
            before = added.get(key)
            if before is None and owner not in erased:
                before = self._times.get(key)
            if before is not None and before >= self._since and abs(time - before) <= window_us:
                repeated[i] = True
            else:
                added[key] = time if before is None else max(time, before)
        owners = np.frombuffer(b"".join(sorted(erased)), dtype="<i8").astype(np.int64)
        return repeated, SeenChange(_columns(added), owners)

    def apply(self, change: SeenChange | None, since_us: int) -> None:
        """The one way to change what is remembered. IN change; `since_us`: ids of earlier events no longer count."""
        if change is not None:
            if len(change.erased):
                gone = {owner.to_bytes(_HASH_BYTES, "little", signed=True) for owner in change.erased.tolist()}
                self._times = {key: time for key, time in self._times.items() if key[:_HASH_BYTES] not in gone}
            self._times.update(zip(_keys(change.added), change.added.times.tolist(), strict=True))
        self._since = max(self._since, since_us)
        # `since` decides what counts; memory is freed when it has doubled.
        if len(self._times) > max(_FEW, 2 * self._kept):
            self._times = {key: time for key, time in self._times.items() if time >= self._since}
            self._kept = len(self._times)

    def count(self, customer: str) -> int:
        """How many ids of a customer are remembered."""
        owner = _hash(customer)
        return sum(key.startswith(owner) and time >= self._since for key, time in self._times.items())

    def chunks(self, most: int) -> Iterator[SeenIds]:
        """All that is remembered, sorted, in pieces of at most `most` ids, for a snapshot."""
        there = sorted((key, time) for key, time in self._times.items() if time >= self._since)
        for first in range(0, len(there), most):
            yield _columns(dict(there[first : first + most]))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()


def _columns(times: dict[bytes, int]) -> SeenIds:
    pairs = np.frombuffer(b"".join(times), dtype="<i8").astype(np.int64).reshape(len(times), 2)
    return SeenIds(pairs[:, 0].copy(), pairs[:, 1].copy(), np.array(list(times.values()), dtype=np.int64))


def _keys(ids: SeenIds) -> list[bytes]:
    width = 2 * _HASH_BYTES
    joined = np.stack([ids.customers, ids.events], axis=1).astype("<i8").tobytes() if len(ids.times) else b""
    return [joined[i : i + width] for i in range(0, len(joined), width)]

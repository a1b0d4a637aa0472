"""How far behind a worker is, in seconds, at any time: also between two polls, and where there are none any more."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isnan, nan

import numpy as np

from streamseg.engine.events import BatchCommitted, Polling

# Polls are at most so far apart where the loop goes round. After that nobody knows what has come since the last one.
_APART_S = 5.0


class LagClock:
    """How old the oldest record of a partition is that has no tag. NaN where nobody knows whether there is one.

    It is known where a batch is open: its first record. Where records are known to wait, the oldest of them came after the
    last one that was tagged, and after the last poll but one that left nothing behind; the later of the two is told, so an
    old backlog is as old as it is, and one event after a quiet hour is not an hour old. What may have come since the last
    poll counts only where that is long ago: then nobody knows, and the time since then is told. Of a partition that was
    never read it is only known since when it waits for this worker.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Records left by the last poll; when the open batch's first record was made; the last committed one's; when a
        # partition had nothing left to read; when it was first heard of.
        self._behind: dict[int, int | None] = {}
        self._open_ms: dict[int, float] = {}
        self._last_ms: dict[int, float] = {}
        self._clear_at: dict[int, float] = {}
        self._given_at: dict[int, float] = {}
        self._polled_at = now()

    @property
    def polled_at(self) -> float:
        """When the last poll came back; the start counts."""
        return self._polled_at

    def polled(self, event: Polling) -> None:
        before, self._polled_at = self._polled_at, self._now()
        self._behind = {p: event.lags.get(p) for p in event.partitions}
        self._open_ms.update(event.first_ms)
        for partition, behind in self._behind.items():
            self._given_at.setdefault(partition, before)
            if behind == 0:
                # What the broker says may be as old as the poll before.
                self._clear_at[partition] = before

    def committed(self, event: BatchCommitted) -> None:
        for partition, made in event.produced_ms.items():
            self._open_ms.pop(partition, None)
            known = made[~np.isnan(made)]
            if len(known):
                self._last_ms[partition] = float(known[-1])

    def drop(self, partition: int) -> None:
        for known in (self._behind, self._open_ms, self._last_ms, self._clear_at, self._given_at):
            known.pop(partition, None)

    def records(self, partition: int) -> float:
        """That wait, as of the last poll; NaN where that is not known."""
        behind = self._behind.get(partition)
        return nan if behind is None else float(behind)

    def seconds(self, partition: int) -> float:
        now = self._now()
        # Asked from another thread: each is looked up once.
        began_ms = self._open_ms.get(partition)
        if began_ms is not None:
            return max(0.0, now - began_ms / 1e3)
        behind = self.records(partition)
        if isnan(behind):
            return nan
        if behind > 0.0:
            since = max(self._last_ms.get(partition, -inf) / 1e3, self._clear_at.get(partition, -inf))
            return max(0.0, now - (since if since > -inf else self._given_at.get(partition, now)))
        silent = now - self._polled_at
        return silent if silent > _APART_S else 0.0

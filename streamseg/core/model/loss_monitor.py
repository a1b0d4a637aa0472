"""Watches the loss: `river.drift.ADWIN` (Bifet and Gavalda 2007) on means of about 100 events, in log order.

Event by event ADWIN raises many false alarms on heavy tails; means of 100 it does not. Its bound is made for values of
about one, and is blind to small ones: means are told as multiples of the first ones of the epoch, times 8. It begins anew
with each epoch of the tags, as another metric or other centers lose otherwise.

What is kept are numbers: the means that its window holds. ADWIN is made from them where it is not at hand, by feeding them
again, and from time to time on purpose, so that there are not ever more of them; where that is does not depend on restarts.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from streamseg.core.model.codec import Opaque
from streamseg.core.numeric.types import Array

_EVENTS = 100
# Means between two looks; river's 32 would find the same, and later.
_CLOCK = 8
_FIRST, _SCALE = 8, 8.0
# Of so many means the latest half is kept: the window reaches back 100,000 to 200,000 events.
_MOST_MEANS = 2_000


class _Known(msgspec.Struct):
    """All that a watch knows.

    Attributes:
        detections: rises of the loss so far; last_version: of the model at the last one; answered: the latest version that a
            search began from, or was asked for at.
        events, loss: of the open mean; level: mean of the epoch's first means; means: in the window, oldest first.
    """

    detections: int = 0
    last_version: int = 0
    answered: int = 0
    epoch: int = -1
    events: float = 0.0
    loss: float = 0.0
    level: float = 0.0
    n_first: int = 0
    means: list[float] = []


class LossWatch(Opaque):
    """One replica's."""

    def __init__(self, known: _Known | None = None) -> None:
        self._known = known or _Known()
        self._adwin: Any = None

    @property
    def detections(self) -> int:
        """Rises of the loss so far."""
        return self._known.detections

    @property
    def last_version(self) -> int:
        """Version of the model at the last one."""
        return self._known.last_version

    @property
    def unanswered(self) -> bool:
        """Whether the loss has risen, and nobody has looked for better centers since."""
        return self._known.last_version > self._known.answered

    def answer(self, version: int) -> None:
        """A search was asked for, or made, of the model of this version."""
        self._known.answered = max(self._known.answered, version)

    def feed(self, events: Array, losses: Array, epoch: int, version: int) -> bool:
        """Counts of events and sums of their losses, in order. Returns whether the loss has risen. IN all."""
        known = self._known
        if epoch != known.epoch:
            self._known = known = _Known(known.detections, known.last_version, known.answered, epoch)
            self._adwin = None
        risen = False
        for n, loss in zip(events.tolist(), losses.tolist(), strict=True):
            known.events, known.loss = known.events + n, known.loss + loss
            if known.events < _EVENTS:
                continue
            risen |= self._has_risen(known.loss / known.events)
            known.events, known.loss = 0.0, 0.0
        if risen:
            known.detections, known.last_version = known.detections + 1, version
        return risen

    def _has_risen(self, mean: float) -> bool:
        known = self._known
        if known.n_first < _FIRST:
            known.level = (known.level * known.n_first + mean) / (known.n_first + 1)
            known.n_first += 1
            return False
        if self._adwin is None:
            self._adwin = _adwin(known.means)
        before = self._adwin.estimation
        known.means.append(_SCALE * mean / known.level if known.level > 0.0 else 0.0)
        self._adwin.update(known.means[-1])
        found, after, kept = self._adwin.drift_detected, self._adwin.estimation, _MOST_MEANS // 2
        if found or len(known.means) >= _MOST_MEANS:
            known.means = known.means[-min(int(self._adwin.width), kept) :]
            self._adwin = None
        return bool(found and after > before)

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self._known)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(msgspec.msgpack.decode(data, type=_Known))

    def name(self) -> bytes:
        return self.to_bytes()


def load() -> None:
    """Import river, which takes a third of a second: before the first event, and not for commands that only look."""
    _made()


def _made() -> Any:
    from river.drift.adwin import ADWIN

    made: Any = ADWIN  # river has no types
    return made


def _adwin(means: list[float]) -> Any:
    adwin = _made()(clock=_CLOCK)
    for mean in means:
        adwin.update(mean)
    return adwin

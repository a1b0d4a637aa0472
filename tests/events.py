"""Streams of events with ids, some of them sent twice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.harness import Event


def with_ids(events: Sequence[Event]) -> list[Event]:
    return [(key, (value or b"")[:-1] + b',"event_id":"e%d"}' % i, time) for i, (key, value, time) in enumerate(events)]


def doubled(events: Sequence[Event], share: float = 0.1, within: int = 700) -> list[Event]:
    """Some events once more, a little later in the stream."""
    rng = random.Random(3)
    later: dict[int, list[Event]] = {}
    out: list[Event] = []
    for i, one in enumerate(events):
        out += [one, *later.pop(i, [])]
        if rng.random() < share:
            later.setdefault(min(len(events) - 1, i + rng.randrange(1, within)), []).append(one)
    return out

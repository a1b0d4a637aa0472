"""Events that were sent twice, where the input is deduplicated."""

from __future__ import annotations

import numpy as np

from streamseg.core.customers.seen import Seen, SeenChange
from streamseg.engine.log_records import Mark
from streamseg.engine.settings import JobSettings
from streamseg.formats.events import Decoded, without


def without_duplicates(seen: Seen, decoded: Decoded, settings: JobSettings) -> tuple[Decoded, SeenChange | None]:
    """Events but for repeated ones, and the ids to remember; an event without an id is never a repeated one. IN all."""
    event_ids, window_us = decoded.event_ids, settings.deduplicate_us
    if window_us is None or (event_ids is None and not decoded.erase.any()):
        return decoded, None
    # An empty one is what a producer sends that has none.
    given = [None] * len(decoded.ids) if event_ids is None else event_ids
    event_ids = [one if one and one.strip() else None for one in given]
    repeated, change = seen.sift(decoded.ids, event_ids, decoded.times, decoded.erase, window_us)
    if repeated.any():
        decoded = without(decoded, set(np.flatnonzero(repeated).tolist()))
    return decoded, change


def ids_since(mark: Mark, clock_us: int | None, settings: JobSettings) -> int:
    """From which event time on ids are remembered, behind the end of a step at watermark `clock_us`. IN all."""
    if settings.deduplicate_us is None or clock_us is None:
        return mark.ids_since
    return max(mark.ids_since, clock_us - settings.deduplicate_us)

"""How far event time has come in a partition, with times held back that are alone far ahead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamseg.core.numeric.decay import NEVER, guarded_times
from streamseg.core.numeric.types import Ints
from streamseg.engine.log_records import Mark


class Watermark(NamedTuple):
    """Largest event time believed, the last one as it came (microseconds).

    `first_s`: the first time believed, of a partition's first events, in seconds; `held_back`: times that were not.
    """

    clock_us: int | None
    last_us: int
    first_s: float | None = None
    held_back: int = 0


def watermark(mark: Mark, times: Ints, max_ahead: float | None) -> Watermark:
    """Behind events at `times` (n,), in microseconds and in order. IN all."""
    if not len(times):
        return Watermark(mark.clock_us, mark.last_us)
    clock = NEVER if mark.clock_us is None else mark.clock_us / 1e6
    guarded, ahead = guarded_times(times / 1e6, clock, mark.last_us / 1e6, max_ahead)
    reached, held_back = round(float(guarded.max()) * 1e6), int(np.count_nonzero(ahead))
    if mark.clock_us is None:
        return Watermark(reached, int(times[-1]), float(guarded[0]), held_back)
    return Watermark(max(mark.clock_us, reached), int(times[-1]), None, held_back)

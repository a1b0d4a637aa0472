"""Where batches end: at the next step of the model.

A step is a number of accepted records of a partition, counted from its first one. Where customers change while they are
silent, a step also ends when event time comes to the next sweep, so that a slow stream is swept when it is due. A batch may
end before that, and the model stays as it is until the step is closed. How the input was polled, and what was refused in
between, changes no tag then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamseg.core.model.state import ModelState
from streamseg.core.numeric.decay import NEVER
from streamseg.engine.duplicates import without_duplicates
from streamseg.engine.log_records import Mark
from streamseg.engine.ports import Records
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task
from streamseg.engine.watermark import watermark
from streamseg.formats.events import Decoded

# A step that event time ends has so many accepted records at least: each is a commit.
LEAST_RECORDS = 50


def until_step(mark: Mark, settings: JobSettings) -> int:
    """How many more accepted records of a partition its open step takes at most. IN both."""
    return settings.step_records - mark.accepted % settings.step_records


def closed_at(mark: Mark, accepted: int, clock_us: int | None, state: ModelState, settings: JobSettings) -> int:
    """Records accepted when the last step was closed, behind a batch that came to so many and to this time. IN all."""
    if accepted == mark.accepted:
        return mark.closed_at
    full = accepted // settings.step_records > mark.accepted // settings.step_records
    return accepted if full or _is_due(mark, accepted, clock_us, state, settings) else mark.closed_at


def _is_due(mark: Mark, accepted: int, clock_us: int | None, state: ModelState, settings: JobSettings) -> bool:
    """Whether event time has come to the next sweep, with records enough for a step."""
    every_s = settings.retag_every_s
    if every_s is None or not settings.layout.fades or not state.ready or state.clock == NEVER or clock_us is None:
        return False
    return accepted - mark.closed_at >= LEAST_RECORDS and clock_us / 1e6 // every_s > state.clock // every_s


def due_within(
    decode: Callable[..., tuple[Decoded, object]], records: Records, task: Task, state: ModelState, settings: JobSettings
) -> int | None:
    """How many of the records end the open step by event time; None where they do not. IN all but decode.

    The more accepted, the later the event time: the first number that ends the step is found by halving.
    """
    try:
        decoded, _ = decode(records.keys, records.values, records.timestamps_ms)
        decoded, _ = without_duplicates(task.seen, decoded, settings)
    except Exception:  # noqa: BLE001 - a defect, which is met, and told, where the records are processed
        return None
    mark = task.mark

    def due(n: int) -> bool:
        times = decoded.times[:n][~decoded.erase[:n]]
        seen = watermark(mark, times, settings.model.max_ahead)
        return _is_due(mark, mark.accepted + n, seen.clock_us, state, settings)

    low, high = 0, len(decoded.ids)
    if not due(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if due(middle) else (middle, high)
    return int(decoded.at[high - 1]) + 1


def cut(records: Mapping[int, Records], most: Mapping[int, int]) -> tuple[dict[int, Records], dict[int, Records]]:
    """Records up to `most` of each partition, and the rest. IN both."""
    now = {p: each.part(0, most[p]) for p, each in records.items()}
    rest = {p: each.part(most[p], len(each.offsets)) for p, each in records.items() if len(each.offsets) > most[p]}
    return now, rest

"""Where batches end: at the next step of the model.

A step is a number of accepted records of a partition, counted from its first one. A batch may end before that, and the model
stays as it is until the step is closed. How the input was polled, and what was refused in between, changes no tag then.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamseg.processing.logs import Mark
from streamseg.processing.settings import JobSettings
from streamseg.processing.transport import Records


def until_step(mark: Mark, settings: JobSettings) -> int:
    """How many more accepted records of a partition its open step takes. IN both."""
    return settings.step_records - mark.accepted % settings.step_records


def cut(records: Mapping[int, Records], most: Mapping[int, int]) -> tuple[dict[int, Records], dict[int, Records]]:
    """Records up to `most` of each partition, and the rest. IN both."""
    now = {p: each.part(0, most[p]) for p, each in records.items()}
    rest = {p: each.part(most[p], len(each.offsets)) for p, each in records.items() if len(each.offsets) > most[p]}
    return now, rest

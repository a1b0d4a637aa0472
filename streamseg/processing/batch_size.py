"""How many records a batch takes: as many as was set, unless something is due in the model sooner."""

from __future__ import annotations

from streamseg.model.decisions import most_rows_before_look, rows_before_look
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.processing.transport import Polled


class BatchSize:
    """Limits batches to the next decision: decisions are taken between batches."""

    def __init__(self, most: int) -> None:
        """`most`: records of a batch."""
        self._most = most

    def next(self, state: ModelState, spec: ModelSpec) -> int:
        """Records that the next batch takes at most. IN all."""
        return min(self._most, rows_before_look(state, spec) or self._most)

    def fits(self, polled: Polled, state: ModelState, spec: ModelSpec) -> bool:
        """Whether polled records are few enough, where the model began since. IN all."""
        most = most_rows_before_look(state, spec)
        return most is None or all(len(records.offsets) <= most for records in polled.partitions.values())

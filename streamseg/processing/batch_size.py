"""How many records a batch takes: as many as was set, unless something is due in the model sooner."""

from __future__ import annotations

from streamseg.model.decisions import SOON_ROWS, most_rows_before_look, rows_before_look
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.processing.planned import Planned
from streamseg.processing.transport import Polled


class BatchSize:
    """Batches are long while nothing happens, and short where customers move: decisions are taken between them."""

    def __init__(self, most: int) -> None:
        """`most`: records of a batch."""
        self._most = most
        # Rows of the model until which batches are short.
        self._short_until = 0

    def next(self, state: ModelState, spec: ModelSpec) -> int:
        """Records that the next batch takes at most. IN all."""
        before_look = SOON_ROWS if state.rows < self._short_until else rows_before_look(state, spec)
        return min(self._most, before_look or self._most)

    def fits(self, polled: Polled, state: ModelState, spec: ModelSpec) -> bool:
        """Whether polled records are few enough, where the model, or a trial, began since. IN all."""
        most = most_rows_before_look(state, spec)
        return most is None or all(len(records.offsets) <= most for records in polled.partitions.values())

    def shortened(self, state: ModelState, planned: Planned) -> bool:
        """Whether a batch's records are to be polled again, fewer at a time, as the loss rises within. IN all.

        What is due would wait for the end of them all, and each of them be tagged by a model that customers have left.
        """
        if not planned.rising or state.rows < self._short_until:
            return False
        self._short_until = state.rows + planned.rising
        return True

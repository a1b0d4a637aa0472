"""How long batches are while the model watches, as a whole job sees it."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.processing.logs import BatchRecord, DecisionRecord, decode_model_record
from streamseg.processing.transport import Log
from streamseg.records.frames import entries
from tests.harness import Event, event, run_memory, settings_for, verified

JUMP = 9_000


@pytest.mark.parametrize(("batch_records", "first"), [(5_000, 0), (5_000, 1_234), (2_000, 700)])
def test_a_backlog_is_read_in_batches_that_end_where_the_panel_is_looked_at(batch_records: int, first: int) -> None:
    settings = settings_for(model={"segments": 4, "warm_up": 500})
    store, _ = run_memory(jumping(16_000)[first:], settings, batch_records=batch_records)
    records = [decode_model_record(entry.payload) for entry in entries(store.read(Log.MODEL, 0, 0), "model")]
    looks = [i for i, record in enumerate(records) if isinstance(record, DecisionRecord)]
    batches = [
        part.records
        for record in records[looks[0] :]
        if isinstance(record, BatchRecord)
        for part in record.manifest.partitions
    ]
    assert max(batches) <= 2_000
    assert len(looks) > 3
    assert verified(store, settings).tags > 0


def jumping(n: int) -> list[Event]:
    """Events of as many customers in four groups, which all go elsewhere at once."""
    rng = np.random.default_rng(5)
    before, after = rng.normal(0.0, 6.0, (4, 3)), rng.normal(0.0, 6.0, (4, 3)) + 5.0
    names = settings_for().model.names
    events = []
    for i in range(n):
        x = (before if i < JUMP else after)[rng.integers(4)] + rng.normal(size=3)
        events.append(event(f"c{i}", float(i), **dict(zip(names, x.tolist(), strict=True))))
    return events

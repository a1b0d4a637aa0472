"""What a job is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from streamseg.core.customers.feature_layout import Layout
from streamseg.core.model.reference import Reference
from streamseg.core.model.spec import STEP, ModelSpec
from streamseg.formats.events import EventFields


@dataclass(frozen=True)
class JobSettings:
    """Settings of a job.

    Attributes:
        config: canonical JSON of everything that a tag depends on; another one does not fit the same state.
        retag_every_s: None: customers who fall silent are not re-tagged.
        topic: the name of the input in `source`.
        reference: customers that drift is measured against, in place of the model's own.
        snapshot_bytes: a snapshot is due when the deltas behind the last one are larger than it, and than this.
        snapshot_versions: or when the model has gone so far since the last one, whose version the model log must reach.
        step_records: accepted records of a partition in a step of the model.
        written: by subject, the Avro schemas of the tags' keys and values, in this order; none for text and JSON.
        deduplicate_us: event time for which ids of events are remembered, so that one that is sent twice counts once.
    """

    application: str
    config: str
    layout: Layout
    model: ModelSpec
    fields: EventFields
    topic: str
    retag_every_s: float | None
    emit: Literal["every", "changes"]
    max_record_bytes: int
    reference: Reference | None = None
    snapshot_bytes: int = 16_000_000
    snapshot_versions: int = 10_000
    step_records: int = STEP
    deduplicate_us: int | None = None
    written: Mapping[str, bytes] = field(default_factory=dict)

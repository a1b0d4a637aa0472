"""Why is this customer here, since when, how sure?"""

from __future__ import annotations

import msgspec
import numpy as np

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.customers.table import NO_SEGMENT
from streamseg.core.model.assignment import Tags, tag
from streamseg.core.numeric.types import Array
from streamseg.engine.job import Job
from streamseg.engine.segment_trace import REASONS
from streamseg.engine.tags import ranked_drivers
from streamseg.engine.task import Task
from streamseg.formats.outputs import Driver, iso_time


class FeatureValue(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of the customer: in the user's units, and in standard deviations from the mean of all customers."""

    name: str
    value: float | None
    z: float | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the state knows of a customer.

    Attributes:
        status: tagged, warming_up (there is no model yet), or waiting (for `missing` features).
        segment_id to reason: as published; `margin` to `drivers`: by the model as it stands.
        now_nearest: another segment that the customer's next event would move it to, as the model has moved on.
    """

    customer_id: str
    status: str
    segment_id: int | None = None
    segment_name: str | None = None
    previous_segment_id: int | None = None
    previous_segment_name: str | None = None
    entered_at: str | None = None
    reason: str | None = None
    last_event: str
    distance: float | None = None
    margin: float | None = None
    runner_up_segment_id: int | None = None
    runner_up_segment_name: str | None = None
    outlier: bool | None = None
    now_nearest: int | None = None
    drivers: tuple[Driver, ...] = ()
    features: list[FeatureValue]
    missing: list[str] = []
    model_version: int


def explain(job: Job, customer_id: str) -> Explanation | None:
    """None where the state knows no such customer."""
    for task in job.tasks.values():
        row = task.table.index.get(customer_id)
        if row is not None:
            return _explanation(job, task, customer_id, row)
    return None


def _explanation(job: Job, task: Task, customer_id: str, row: int) -> Explanation:
    settings, state = job.settings, job.state
    rows = np.array([row])
    x = task.table.vectors(rows, task.mark.sweep.as_of)
    names = settings.model.names
    missing = [name for name, value in zip(names, x[: settings.layout.n_weighted, 0], strict=False) if np.isnan(value)]
    stored = {name: int(task.table.column(name)[row]) for name in ("time", "segment", "previous", "entered_at", "reason")}
    base = Explanation(
        customer_id=customer_id,
        status="waiting" if missing else "warming_up",
        last_event=iso_time(stored["time"]),
        features=_features(job, x[:, 0]),
        missing=missing,
        model_version=state.version,
    )
    if missing or not state.ready:
        return base
    tags = tag(state, settings.model, x)
    titles = {segment.id: segment.name for segment in [*state.retired, *tags.state.segments]}
    segment, runner_up = stored["segment"], int(tags.runner_up_ids[0])
    tagged = segment != NO_SEGMENT
    alone = runner_up == NO_SEGMENT
    nearest = int(tags.segment_ids[0])
    return msgspec.structs.replace(
        base,
        status="tagged" if tagged else "warming_up",
        segment_id=segment if tagged else None,
        segment_name=titles.get(segment),
        previous_segment_id=stored["previous"] if stored["previous"] != NO_SEGMENT else None,
        previous_segment_name=titles.get(stored["previous"]),
        entered_at=iso_time(stored["entered_at"]) if stored["entered_at"] != NO_TIME else None,
        reason=REASONS[stored["reason"]] if tagged else None,
        distance=round(float(tags.distance[0]), 3),
        margin=None if alone else round(float(tags.margin[0]), 3),
        runner_up_segment_id=None if alone else runner_up,
        runner_up_segment_name=titles.get(runner_up),
        outlier=bool(tags.outlier[0]),
        now_nearest=nearest if nearest != segment else None,
        drivers=() if alone else _drivers(job, x, tags),
    )


def _drivers(job: Job, x: Array, tags: Tags) -> tuple[Driver, ...]:
    order, z, share = ranked_drivers(tags.state, job.settings, x, tags.near)
    names = job.settings.model.names
    return tuple(
        Driver(names[j], round(float(a), 3), round(float(b), 3))
        for j, a, b in zip(order[:, 0], z[:, 0], share[:, 0], strict=True)
    )


def _features(job: Job, x: Array) -> list[FeatureValue]:
    # As `segments` has it: of the customers as they are now.
    spec, moments = job.settings.model, job.state.moments
    deviation = np.sqrt(moments.variance())
    values = []
    for j, feature in enumerate(spec.features):
        value = float(x[j])
        raw = float(feature.raw(x[j : j + 1])[0])
        z = (value - float(moments.mean[j])) / float(deviation[j]) if deviation[j] > 0 else float("nan")
        values.append(FeatureValue(name=feature.name, value=_known(raw), z=_known(z)))
    return values


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)

"""Assignments: the published records of events and of sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from streamseg.core.customers.table import NO_SEGMENT
from streamseg.core.model.assignment import Tags, drivers, tag
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.clusters import Nearest
from streamseg.core.numeric.types import Array, Flags, Ints
from streamseg.engine.segment_trace import REASONS
from streamseg.engine.settings import JobSettings
from streamseg.formats.json_rows import (
    NULL,
    Part,
    array_of,
    members_of,
    object_of,
    rows_of,
    scalars,
    strings,
    thousandths,
    time_members,
)
from streamseg.formats.outputs import SCHEMA_VERSION

_TOP_DRIVERS = 3
# Records encoded at a time: their texts stay in the cache until they are joined.
_PORTION = 2_500

T = TypeVar("T")
CHANGES = ("new", "moved", "unchanged")
_BOOLEANS = np.array([b"false", b"true"], dtype=object)


class Subjects(NamedTuple):
    """Who is tagged, one place each: (n,) or lists of length n.

    Attributes:
        tags, x: of the places; None while there is no model.
        previous, changed, entered_at, reasons: as in `Walk`.
        times: event times in microseconds; offsets: of the events, None for a sweep; event_ids, traces: None where none has
            one.
    """

    ids: Sequence[str]
    tags: Tags | None
    x: Array
    previous: Ints
    changed: Flags
    entered_at: Ints
    reasons: Ints
    times: Ints
    partition: int = 0
    offsets: Ints | None = None
    event_ids: Sequence[str | None] | None = None
    traces: Sequence[bytes | None] | None = None


def assignments(subjects: Subjects, assigned_at: Ints, state: ModelState, settings: JobSettings) -> list[bytes]:
    """The record of each subject, as `Assignment` reads it. IN all; `assigned_at` (n,) in microseconds."""
    values: list[bytes] = []
    for first in range(0, len(subjects.ids), _PORTION):
        rows = slice(first, first + _PORTION)
        values += _values(pick(subjects, rows), assigned_at[rows], state, settings)
    return values


def _values(subjects: Subjects, assigned_at: Ints, state: ModelState, settings: JobSettings) -> list[bytes]:
    """In the order of `Assignment`'s fields."""
    tags = subjects.tags
    entered = {} if tags is None else {"entered_at": subjects.entered_at}
    times = time_members(entered | {"event_time": subjects.times, "assigned_at": assigned_at})
    head = members_of({"schema_version": b"%d" % SCHEMA_VERSION, "customer_id": strings(subjects.ids)})
    tail = {
        "source": _source(subjects, settings),
        "event_id": NULL if subjects.event_ids is None else strings(subjects.event_ids),
    }
    labels = _WARMING_UP if tags is None else _labels(subjects, tags)
    certainty = dict.fromkeys(_CERTAINTY, NULL) if tags is None else _certainty(subjects, tags, settings)
    rest = members_of({"model_version": b"%d" % state.version, **certainty, **tail})
    return rows_of((b"{", head, b",", labels, b",", times, b",", rest, b"}"), len(subjects.ids))


_CERTAINTY = ("distance", "runner_up_segment_id", "margin", "outlier", "drivers")
_WARMING_UP = members_of(
    {
        "segment_id": NULL,
        "segment_name": NULL,
        "previous_segment_id": NULL,
        "change": NULL,
        "reason": b'"warming_up"',
        "entered_at": NULL,
    }
)


def _labels(subjects: Subjects, tags: Tags) -> list[bytes]:
    """Which segment, from which, how and why: few combinations, each written once."""
    segments = tags.state.segments
    code = (subjects.previous + 1) * len(segments) + tags.near.labels
    code = (code * len(CHANGES) + _kinds(subjects)) * len(REASONS) + subjects.reasons
    found, which = np.unique(code, return_inverse=True)
    rest, reasons = np.divmod(found, len(REASONS))
    rest, kinds = np.divmod(rest, len(CHANGES))
    previous, labels = np.divmod(rest, len(segments))
    fields: dict[str, Part] = {
        "segment_id": scalars([segments[label].id for label in labels.tolist()]),
        "segment_name": strings(segments[label].name for label in labels.tolist()),
        "previous_segment_id": scalars([None if before == 0 else before - 1 for before in previous.tolist()]),
        "change": strings(CHANGES[kind] for kind in kinds.tolist()),
        "reason": strings(REASONS[reason] for reason in reasons.tolist()),
    }
    texts: list[bytes] = np.array(rows_of(members_of(fields), len(found)), dtype=object)[which].tolist()
    return texts


def _certainty(subjects: Subjects, tags: Tags, settings: JobSettings) -> dict[str, Part]:
    state = tags.state
    alone = len(state.segments) == 1
    ids = np.array(scalars(state.ids), dtype=object)
    return {
        "distance": thousandths(tags.distance),
        "runner_up_segment_id": NULL if alone else ids[tags.near.runner_up].tolist(),
        "margin": NULL if alone else thousandths(tags.margin),
        "outlier": _BOOLEANS[tags.outlier.astype(np.int64)].tolist(),
        "drivers": NULL if alone else _drivers(state, settings, subjects.x, tags.near),
    }


def _source(subjects: Subjects, settings: JobSettings) -> Part:
    if subjects.offsets is None:
        return NULL
    topic, partition = strings([settings.topic])[0], b"%d" % subjects.partition
    return object_of({"topic": topic, "partition": partition, "offset": scalars(subjects.offsets)})


def _kinds(subjects: Subjects) -> Ints:
    """Place in `CHANGES` of each."""
    return np.where(subjects.changed, np.where(subjects.previous == NO_SEGMENT, 0, 1), 2)


def _drivers(state: ModelState, settings: JobSettings, x: Array, near: Nearest) -> Part:
    names, z, share = ranked_drivers(state, settings, x, near)
    texts = np.array(strings(settings.model.names[: settings.model.n_weighted]), dtype=object)
    return array_of(
        [
            object_of({"feature": texts[names[rank]].tolist(), "z": thousandths(z[rank]), "share": thousandths(share[rank])})
            for rank in range(len(names))
        ]
    )


def ranked_drivers(state: ModelState, settings: JobSettings, x: Array, near: Nearest) -> tuple[Ints, Array, Array]:
    """The features that speak most for the segment and against the runner-up, strongest first.

    Feature number, z and share, each (at most 3, n). IN x (n_features, n), near.
    """
    z, share = drivers(state, settings.model, x, near)
    order = np.argsort(-share, axis=0, kind="stable")[:_TOP_DRIVERS]
    return order, np.take_along_axis(z, order, axis=0), np.take_along_axis(share, order, axis=0)


def pick(subjects: Subjects, places: Ints | slice) -> Subjects:
    """Some of the subjects, in the order of `places`."""
    tags = subjects.tags.take(places) if subjects.tags is not None else None
    return Subjects(
        _listed(subjects.ids, places),
        tags,
        subjects.x[:, places],
        subjects.previous[places],
        subjects.changed[places],
        subjects.entered_at[places],
        subjects.reasons[places],
        subjects.times[places],
        subjects.partition,
        None if subjects.offsets is None else subjects.offsets[places],
        None if subjects.event_ids is None else _listed(subjects.event_ids, places),
        None if subjects.traces is None else _listed(subjects.traces, places),
    )


def _listed(values: Sequence[T], places: Ints | slice) -> Sequence[T]:
    return values[places] if isinstance(places, slice) else [values[i] for i in places.tolist()]


def counted(subjects: Subjects) -> Counter[tuple[int, str, str]]:
    """Assignments by (segment, change, reason)."""
    if subjects.tags is None or not len(subjects.ids):
        return Counter()
    code = (subjects.tags.segment_ids * len(CHANGES) + _kinds(subjects)) * len(REASONS) + subjects.reasons
    found, counts = np.unique(code, return_counts=True)
    out: Counter[tuple[int, str, str]] = Counter()
    for value, n in zip(found.tolist(), counts.tolist(), strict=True):
        segment, kind = divmod(value // len(REASONS), len(CHANGES))
        out[segment, CHANGES[kind], REASONS[value % len(REASONS)]] = n
    return out


def transitions(subjects: Subjects) -> Counter[tuple[int, int]]:
    """Changes by (segment before, segment); -1 for none before."""
    if subjects.tags is None:
        return Counter()
    changed = subjects.changed
    return Counter(zip(subjects.previous[changed].tolist(), subjects.tags.segment_ids[changed].tolist(), strict=True))


def sweep_subjects(
    state: ModelState, settings: JobSettings, ids: list[str], x: Array, previous: Ints, seen: Ints, at: int, reasons: Ints
) -> Subjects:
    """Customers that a sweep moved: no source, entered at the watermark."""
    n = len(ids)
    return Subjects(
        ids,
        tag(state, settings.model, x),
        x,
        previous,
        np.ones(n, np.bool_),
        np.full(n, at),
        reasons,
        seen,
    )

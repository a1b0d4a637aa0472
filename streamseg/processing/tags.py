"""Assignments: the published records of events and of sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from streamseg.features.table import NO_SEGMENT
from streamseg.kernel.clusters import Nearest
from streamseg.kernel.types import Array, Flags, Ints
from streamseg.model.state import ModelState
from streamseg.model.tagging import Tags, drivers, tag
from streamseg.processing.settings import JobSettings
from streamseg.processing.walk import REASONS
from streamseg.records.outputs import SCHEMA_VERSION, Assignment, Driver, Source, encode_all, iso_times

Published = list[tuple[bytes, bytes | None]]

_TOP_DRIVERS = 3
_DECIMALS = 6
NEW, MOVED, UNCHANGED = "new", "moved", "unchanged"


class Subjects(NamedTuple):
    """Who is tagged, one place each: (n,) or lists of length n.

    Attributes:
        tags, x: of the places; None while there is no model.
        previous, changed, entered_at, reasons: as in `Walk`.
        times: event times in microseconds; sources: (topic, partition, offset) or None for a sweep.
    """

    ids: Sequence[str]
    tags: Tags | None
    x: Array
    previous: Ints
    changed: Flags
    entered_at: Ints
    reasons: Ints
    times: Ints
    sources: Sequence[Source | None]
    event_ids: Sequence[str | None]


def assignments(subjects: Subjects, assigned_at: Ints, state: ModelState, settings: JobSettings) -> Published:
    """(key, value) of each subject. IN all; `assigned_at` (n,) in microseconds."""
    columns = _waiting_columns(subjects) if subjects.tags is None else _tagged_columns(subjects, state, settings)
    records = map(
        Assignment,
        repeat(SCHEMA_VERSION),
        subjects.ids,
        *columns.before_times,
        iso_times(subjects.times),
        iso_times(assigned_at),
        repeat(state.version),
        *columns.after_times,
        subjects.sources,
        subjects.event_ids,
    )
    return list(zip([customer_id.encode() for customer_id in subjects.ids], encode_all(list(records)), strict=True))


class _Columns(NamedTuple):
    """Columns of `Assignment` in its order, around event_time, assigned_at and model_version."""

    before_times: Sequence[Any]
    after_times: Sequence[Any]


def _waiting_columns(subjects: Subjects) -> _Columns:
    nothing = repeat(None)
    return _Columns((nothing, nothing, nothing, nothing, repeat("warming_up"), nothing), (nothing,) * 5)


def _tagged_columns(subjects: Subjects, state: ModelState, settings: JobSettings) -> _Columns:
    tags = subjects.tags
    assert tags is not None
    segments = state.tagging.segments
    names = np.array([segment.name for segment in segments], dtype=object)
    alone = len(segments) == 1
    nothing: Any = repeat(None)
    return _Columns(
        (
            tags.segment_ids.tolist(),
            names[tags.near.labels].tolist(),
            [None if segment == NO_SEGMENT else segment for segment in subjects.previous.tolist()],
            changes_of(subjects.previous, subjects.changed),
            np.array(REASONS, dtype=object)[subjects.reasons].tolist(),
            iso_times(subjects.entered_at),
        ),
        (
            np.round(tags.distance, _DECIMALS).tolist(),
            nothing if alone else tags.runner_up_ids.tolist(),
            nothing if alone else np.round(tags.margin, _DECIMALS).tolist(),
            tags.outlier.tolist(),
            nothing if alone else top_drivers(state, settings, subjects.x, tags.near),
        ),
    )


def changes_of(previous: Ints, changed: Flags) -> list[str]:
    kinds = np.where(changed, np.where(previous == NO_SEGMENT, 0, 1), 2)
    names: list[str] = np.array([NEW, MOVED, UNCHANGED], dtype=object)[kinds].tolist()
    return names


def top_drivers(state: ModelState, settings: JobSettings, x: Array, near: Nearest) -> list[tuple[Driver, ...]]:
    """The features that speak most for the segment and against the runner-up, strongest first."""
    z, share = drivers(state, settings.model, x, near)
    order = np.argsort(-share, axis=0, kind="stable")[:_TOP_DRIVERS]
    names = np.array(settings.model.names, dtype=object)[order]
    z = np.round(np.take_along_axis(z, order, axis=0), _DECIMALS)
    share = np.round(np.take_along_axis(share, order, axis=0), _DECIMALS)
    ranks = [map(Driver, *(part.tolist() for part in rank)) for rank in zip(names, z, share, strict=True)]
    return list(zip(*ranks, strict=True))


def pick(subjects: Subjects, places: Ints) -> Subjects:
    """Some of the subjects, in the order of `places`."""
    at = places.tolist()
    tags = subjects.tags.take(places) if subjects.tags is not None else None
    return Subjects(
        [subjects.ids[i] for i in at],
        tags,
        subjects.x[:, places],
        subjects.previous[places],
        subjects.changed[places],
        subjects.entered_at[places],
        subjects.reasons[places],
        subjects.times[places],
        [subjects.sources[i] for i in at],
        [subjects.event_ids[i] for i in at],
    )


def counted(subjects: Subjects) -> Counter[tuple[int, str, str]]:
    """Assignments by (segment, change, reason)."""
    if subjects.tags is None or not len(subjects.ids):
        return Counter()
    kinds = np.where(subjects.changed, np.where(subjects.previous == NO_SEGMENT, 0, 1), 2)
    code = (subjects.tags.segment_ids * 3 + kinds) * len(REASONS) + subjects.reasons
    found, counts = np.unique(code, return_counts=True)
    out: Counter[tuple[int, str, str]] = Counter()
    for value, n in zip(found.tolist(), counts.tolist(), strict=True):
        segment, kind = divmod(value // len(REASONS), 3)
        out[segment, (NEW, MOVED, UNCHANGED)[kind], REASONS[value % len(REASONS)]] = n
    return out


def transitions(subjects: Subjects) -> Counter[tuple[int, int]]:
    """Changes by (segment before, segment); -1 for none before."""
    if subjects.tags is None:
        return Counter()
    changed = subjects.changed
    return Counter(zip(subjects.previous[changed].tolist(), subjects.tags.segment_ids[changed].tolist(), strict=True))


def sweep_subjects(
    state: ModelState, settings: JobSettings, ids: list[str], x: Array, previous: Ints, times: Ints, at: int, reason: int
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
        np.full(n, reason),
        times,
        [None] * n,
        [None] * n,
    )

"""What the job plans beside a batch's plan itself: what follows from a commit, and the pieces of a snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from streamseg.core.model.assignment import Quality
from streamseg.core.model.codec import pack
from streamseg.engine.events import BatchCommitted, Observation, Rejection, SegmentSummary
from streamseg.engine.log_records import BatchRecord, CustomerDelta, Mark, SnapshotHead, SnapshotRows
from streamseg.engine.partition import PartitionResult
from streamseg.engine.ports import CommitPlan
from streamseg.engine.task import Task
from streamseg.formats.frames import MAX_FRAME_BYTES
from streamseg.formats.outputs import DeadLetter

# What an id takes in a snapshot, roughly.
_ID_BYTES = 32
# What a remembered event id takes, and some more.
_SEEN_BYTES = 32


@dataclass(frozen=True)
class Planned:
    """A plan, and what follows from it once it is committed.

    Attributes:
        deltas: the customers' deltas with their sizes, by partition.
        observation: what observers are told, given the segments after the commit.
    """

    plan: CommitPlan
    deltas: Mapping[int, tuple[CustomerDelta, int]]
    observation: Callable[[tuple[SegmentSummary, ...]], Observation] | None = None


@dataclass(frozen=True)
class PlannedSnapshot:
    """A snapshot of one partition's customers."""

    plan: CommitPlan
    partition: int
    mark: Mark
    written: list[int]
    model_version: int


@dataclass(frozen=True)
class PlannedModelSnapshot:
    plan: CommitPlan
    version: int
    next_offset: int


class KeptSnapshot(NamedTuple):
    """A model snapshot: its version, where the model log goes on behind it, and its offset.

    Of several of one version the one that needs less of the log counts: others may stand behind it, of workers who read
    the log elsewhere.
    """

    version: int
    next_offset: int
    offset: int


def snapshot_pieces(task: Task, mark: Mark, clock_us: int, version: int, written: list[int]) -> Iterator[bytes]:
    """Values of a snapshot, each small enough for a record. Their sizes go to `written`."""
    table = task.table
    width = sum(np.dtype(spec.dtype).itemsize for spec in table.specs) + _ID_BYTES
    yield from _fitting(SnapshotHead(mark, clock_us, version, len(table), table.n_customers), written)
    for rows in table.chunks(max(1, MAX_FRAME_BYTES * 3 // 4 // width)):
        yield from _fitting(SnapshotRows(rows), written)
    for ids in task.seen.chunks(MAX_FRAME_BYTES // _SEEN_BYTES):
        yield from _fitting(SnapshotRows(seen=ids), written)


def _fitting(value: SnapshotHead | SnapshotRows, written: list[int]) -> Iterator[bytes]:
    piece = pack(value)
    if len(piece) > MAX_FRAME_BYTES and isinstance(value, SnapshotRows) and value.rows is not None:
        for half in value.rows.halves():
            yield from _fitting(SnapshotRows(half), written)
        return
    written.append(len(piece))
    yield piece


def batch_committed(
    results: Mapping[int, PartitionResult], record: BatchRecord, segments: tuple[SegmentSummary, ...]
) -> BatchCommitted:
    transitions: Counter[tuple[int, int]] = Counter()
    quality = Quality()
    defects: Counter[str] = Counter()
    found = 0
    outcomes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    assignments: Counter[tuple[int, str, str]] = Counter()
    for result in results.values():
        part = result.manifest
        outcomes.update(
            assigned=part.assigned,
            waiting=part.waiting,
            warming_up=part.warming_up,
            erased=part.erased,
            dead_letter=part.dead_letters,
            dropped=part.dropped,
            duplicate=part.duplicates,
        )
        codes.update(letter.code for letter in result.dead_letters)
        assignments.update(result.assignments)
        transitions.update(result.transitions)
        quality = quality.plus(result.quality)
        defects.update(result.defects)
        found += result.erasures_found
    marks = {p: result.delta.mark for p, result in results.items()}
    watermarks = [mark.clock_us for mark in marks.values() if mark.clock_us is not None]
    return BatchCommitted(
        dict(outcomes),
        dict(codes),
        dict(assignments),
        dict(transitions),
        segments,
        {p: mark.next for p, mark in marks.items()},
        record.manifest.model_version,
        record.manifest.clock_us,
        max(watermarks, default=None),
        record.delta.clipped,
        record.delta.held_back,
        quality,
        defects=defects,
        rejected=_rejections(results),
        erasures_found=found,
    )


def _rejections(results: Mapping[int, PartitionResult]) -> dict[tuple[str, str], Rejection]:
    """Dead letters by code and field."""
    letters: dict[tuple[str, str], list[DeadLetter]] = {}
    for result in results.values():
        for letter in result.dead_letters:
            letters.setdefault((letter.code, letter.field), []).append(letter)
    return {kind: Rejection(len(some), _names_in(some[0].value)) for kind, some in letters.items()}


def _names_in(value: bytes | None) -> tuple[str, ...]:
    """Names of the fields of a JSON object; none where it is something else."""
    try:
        fields = msgspec.json.decode(value or b"", type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(fields)

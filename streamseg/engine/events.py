"""Typed events for observers: logs, status, metrics. Told after a commit, never before; values, never live state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from streamseg.core.model.assignment import Quality
from streamseg.core.model.drift import Drift
from streamseg.core.numeric.types import Array
from streamseg.formats.outputs import SegmentRecord


@dataclass(frozen=True)
class SegmentSummary:
    """A segment in short.

    `shift`, `since_birth`: how far its center moved since the metric was set, and since it was born, in standard deviations.
    """

    id: int
    name: str
    customers: int
    share: float
    shift: float
    since_birth: float = 0.0


@dataclass(frozen=True)
class Polling:
    """The loop goes round: told at every poll, also of an empty one.

    Attributes:
        generation: of the group; 0 or less while this worker is no member yet. partitions: that it owns.
        lags: records of each that were not polled yet, as far as is known; first_ms: when the first record that was
            polled was made.
    """

    generation: int
    partitions: tuple[int, ...]
    lags: Mapping[int, int]
    first_ms: Mapping[int, int]


@dataclass(frozen=True)
class Restoring:
    """A partition's customers are read back; about so many records of its log are left."""

    partition: int
    remaining: int


@dataclass(frozen=True)
class Suspended:
    """The state is not to be trusted any more: nothing is tagged until it is restored."""


@dataclass(frozen=True)
class CommitFailed:
    """A commit came to nothing, as far as is known: "aborted", "unknown" or "fenced"."""

    cause: str


@dataclass(frozen=True)
class DriftMeasured:
    """Customers of late against those of the reference."""

    drift: Drift


@dataclass(frozen=True)
class Profiled:
    """What each segment is like, in the user's units and in standard deviations, from time to time."""

    profiles: tuple[SegmentRecord, ...]


@dataclass(frozen=True)
class Detected:
    """Drift is told, for the first time since it was not. `detector`: "loss" (ADWIN), "feature", "shares"."""

    detector: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftEnded:
    """Drift that was reported has ended; `details` as reported."""

    detector: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """The job is restored and goes on. `positions`: next input offsets."""

    application: str
    positions: Mapping[int, int]
    model_version: int
    customers: int
    restore_seconds: float
    segments: tuple[SegmentSummary, ...] = ()


class Rejection(NamedTuple):
    """`n` dead letters of one kind, and the names of the fields that one of them has."""

    n: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class InputFormat:
    """How the input file is written, as found when it was first read."""

    path: str
    found: str


@dataclass(frozen=True)
class BatchCommitted:
    """One commit with events.

    Attributes:
        outcomes: events by what became of them: assigned, waiting, warming_up, erased, dead_letter, dropped,
            duplicate.
        dead_letters: by code; assignments: by (segment, change, reason); transitions: by (from, to), -1 for none before.
        segments: as of after the batch.
        clock_us: the batch's clock reading; watermark_us: event time that the batch has reached.
        quality: of the events' tags.
        committed_us: when it was committed; produced_ms: by partition, when records were made, (n,).
        snapshot_due: what was written since the last snapshots, as a share of what makes one due; the largest.
        stages: seconds of each; half_life: of the champion, in words; promotions: so far; epoch: of the tags.
        refused: rows that a model of somebody else's could not learn so far.
        defects: records on which the program raised, by the exception's class and traceback.
        rejected: dead letters by code and field; erasures_found: of those erased, those whose customer was there.
    """

    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    assignments: Mapping[tuple[int, str, str], int]
    transitions: Mapping[tuple[int, int], int]
    segments: tuple[SegmentSummary, ...]
    positions: Mapping[int, int]
    model_version: int
    clock_us: int
    watermark_us: int | None
    clipped: int
    held_back: int
    quality: Quality = field(default_factory=Quality)
    committed_us: int = 0
    produced_ms: Mapping[int, Array] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    half_life: str = ""
    promotions: int = 0
    epoch: int = 0
    snapshot_due: float = 0.0
    refused: int = 0
    defects: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[tuple[str, str], Rejection] = field(default_factory=dict)
    erasures_found: int = 0


@dataclass(frozen=True)
class ModelChanged:
    """The model changed by more than what it learned.

    `what`: "started", "metric_renewed", "promoted" (a refit of the same segments), "segments_changed",
    "renamed" (names that say what customers are like now).
    """

    what: str
    model_version: int
    segments: tuple[SegmentSummary, ...]


@dataclass(frozen=True)
class SnapshotTaken:
    partition: int
    customers: int
    model_version: int


@dataclass(frozen=True)
class PartitionsMoved:
    """The group was rebalanced: partitions gained (and restored) and lost; `customers` are now in this worker's state."""

    gained: tuple[int, ...]
    lost: tuple[int, ...]
    customers: int
    restore_seconds: float


@dataclass(frozen=True)
class Waiting:
    """The job cannot go on as wished, and says why. `event` is a stable name."""

    event: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """The job ended: "input_ended", "signal", or the class of an error."""

    reason: str
    positions: Mapping[int, int]


Observation = (
    Started
    | Polling
    | Restoring
    | Suspended
    | BatchCommitted
    | CommitFailed
    | ModelChanged
    | DriftMeasured
    | Profiled
    | Detected
    | DriftEnded
    | SnapshotTaken
    | PartitionsMoved
    | InputFormat
    | Waiting
    | Stopped
)


OBSERVER_FAILED = "observer_failed"


class Observer(Protocol):
    def observe(self, event: Observation) -> None: ...


class Observers:
    """Several as one. Watching a job does not stop it: one that fails is told nothing more, and the others are told that."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = list(observers)

    def observe(self, event: Observation) -> None:
        for observer in tuple(self._observers):
            if observer not in self._observers:
                continue  # it failed while it was told that another one did
            try:
                observer.observe(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not the job's
                self._observers.remove(observer)
                name = type(observer).__name__
                message = f"{name} is told nothing more: {type(error).__name__}: {error}"
                self.observe(Waiting(OBSERVER_FAILED, message, {"observer": name}))

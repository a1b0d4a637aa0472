"""Structured logs: one JSON object a line, with a stable event name. Never customer data, never secrets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from streamseg.engine.events import (
    BatchCommitted,
    CommitFailed,
    Detected,
    DriftEnded,
    InputFormat,
    ModelChanged,
    Observation,
    PartitionsMoved,
    Restoring,
    SnapshotTaken,
    Started,
    Stopped,
    Waiting,
)

# Between two lines about batches.
_INTERVAL_S = 10.0


class JsonLog:
    """Writes a line for each change of the job, and at most one in ten seconds about batches."""

    def __init__(self, stream: TextIO, application: str, worker: str = "", now: Callable[[], float] = time.time) -> None:
        self._stream, self._now = stream, now
        self._who = {"application": application} | ({"worker": worker} if worker else {})
        self._last = 0.0
        self._last_restoring = 0.0
        self._events = 0
        self._dead_letters: Counter[str] = Counter()
        self._defects: set[str] = set()

    def observe(self, event: Observation) -> None:
        match event:
            case BatchCommitted():
                self._batch(event)
            case Started():
                self._write(
                    "started",
                    offsets=dict(event.positions),
                    model_version=event.model_version,
                    customers=event.customers,
                    restore_seconds=round(event.restore_seconds, 3),
                )
            case ModelChanged():
                names = {segment.id: segment.name for segment in event.segments}
                self._write(f"model_{event.what}", model_version=event.model_version, segments=names)
            case SnapshotTaken():
                self._write(
                    "snapshot_taken",
                    partition=event.partition,
                    customers=event.customers,
                    model_version=event.model_version,
                )
            case CommitFailed():
                self._write("commit_failed", cause=event.cause)
            case Detected() | DriftEnded():
                self._drift(event)
            case Restoring():
                self._restoring(event)
            case PartitionsMoved():
                self._write(
                    "partitions_moved",
                    gained=event.gained,
                    lost=event.lost,
                    customers=event.customers,
                    restore_seconds=round(event.restore_seconds, 3),
                )
            case InputFormat():
                self._write("input_format", path=event.path, found=event.found)
            case Waiting():
                self._write(event.event, message=event.message, **event.details)
            case Stopped():
                self._write(
                    "stopped",
                    reason=event.reason,
                    offsets=dict(event.positions),
                    events=self._events,
                    dead_letters=self._dead_letters.total(),
                    dead_letter_codes=dict(self._dead_letters),
                )

    def _drift(self, event: Detected | DriftEnded) -> None:
        if isinstance(event, Detected):
            self._write("drift_detected", detector=event.detector, message=event.message, **event.details)
        else:
            self._write("drift_ended", detector=event.detector, **event.details)

    def _restoring(self, event: Restoring) -> None:
        """A long restore tells how far it is."""
        if event.remaining and self._now() - self._last_restoring >= _INTERVAL_S:
            if self._last_restoring:
                self._write("restoring", partition=event.partition, remaining_records=event.remaining)
            self._last_restoring = self._now()

    def _batch(self, event: BatchCommitted) -> None:
        self._events += sum(event.outcomes.values())
        self._dead_letters.update(event.dead_letters)
        unknown = event.outcomes.get("erased", 0) - event.erasures_found
        if unknown:
            self._write(
                "erasure_found_nobody",
                message="no such customer: are ids in keys written in another way than in events (input.key_format)?",
                erasures=unknown,
                offsets=dict(event.positions),
            )
        for defect in event.defects.keys() - self._defects:
            self._defects.add(defect)
            self._write(
                "record_quarantined",
                message="the program raised on a record, which is a dead letter (unusable); report this traceback",
                offsets=dict(event.positions),
                traceback=defect,
            )
        if self._now() - self._last >= _INTERVAL_S:
            self._last = self._now()
            self._write(
                "progress",
                events=self._events,
                dead_letters=self._dead_letters.total(),
                offsets=dict(event.positions),
                model_version=event.model_version,
            )

    def _write(self, name: str, **fields: object) -> None:
        stamp = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        line = {"time": stamp, "event": name, **self._who, **fields}
        # A disk that is full, or somebody who reads no more: the job goes on, and the next line may come through.
        with suppress(OSError):
            self._stream.write(msgspec.json.encode(line).decode() + "\n")
            self._stream.flush()

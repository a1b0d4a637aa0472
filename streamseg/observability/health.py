"""Whether the job lives, whether it is ready, and where it stands, for probes and for people."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from streamseg import __version__
from streamseg.engine.events import (
    OBSERVER_FAILED,
    BatchCommitted,
    CommitFailed,
    Detected,
    DriftMeasured,
    ModelChanged,
    Observation,
    PartitionsMoved,
    Polling,
    Restoring,
    SegmentSummary,
    Started,
    Stopped,
    Suspended,
    Waiting,
)

# A loop that was not heard of for so long hangs: a commit, or a broker that is away, may take a minute.
SILENCE_S = 120.0
_LAST = 10


class Pulse:
    """Whether the loop goes round. So little that it does not fail where those who know more do, of whom it knows then."""

    def __init__(self, now: Callable[[], float] = time.time, silence_s: float = SILENCE_S) -> None:
        self._now, self._silence_s = now, silence_s
        self._heard = now()
        self.stopped: str | None = None
        self.failed: set[object] = set()

    @property
    def silence_s(self) -> float:
        """Seconds since something was heard."""
        return self._now() - self._heard

    @property
    def live(self) -> bool:
        return self.stopped is None and self.silence_s <= self._silence_s

    def observe(self, event: Observation) -> None:
        self._heard = self._now()
        if isinstance(event, Stopped):
            self.stopped = event.reason
        elif isinstance(event, Waiting) and event.event == OBSERVER_FAILED:
            self.failed.add(event.details.get("observer"))


class Health:
    """What was heard of the loop last."""

    def __init__(
        self, application: str, worker: str = "", now: Callable[[], float] = time.time, silence_s: float = SILENCE_S
    ) -> None:
        self._now = now
        self._began = now()
        self.pulse = Pulse(now, silence_s)
        self._who = {"application": application, "worker": worker, "version": __version__}
        self._restored, self._member = False, False
        self._positions: dict[int, int] = {}
        self._lags: dict[int, int] = {}
        self._segments: tuple[SegmentSummary, ...] = ()
        self._model: dict[str, Any] = {"version": 0}
        self._outcomes: Counter[str] = Counter()
        self._aborts: Counter[str] = Counter()
        self._committed_s: float | None = None
        self._drift: dict[str, Any] | None = None
        self._told: list[dict[str, Any]] = []
        self._waiting: str | None = None

    @property
    def live(self) -> bool:
        """Whether the loop goes round."""
        return self.pulse.live

    @property
    def ready(self) -> bool:
        """Whether this worker has its place in the group, and the state of what it owns."""
        return self.live and self._restored and self._member

    def observe(self, event: Observation) -> None:
        self.pulse.observe(event)
        match event:
            case Polling():
                self._member, self._lags = event.generation > 0, dict(event.lags)
            case Started():
                self._restored, self._positions, self._segments = True, dict(event.positions), event.segments
                self._model["version"], self._waiting = event.model_version, None
            case PartitionsMoved():
                self._restored = True
                self._positions = {p: at for p, at in self._positions.items() if p not in event.lost}
            case Restoring():
                self._restored = False
            case Suspended():
                # Its place in the group is known again by the next poll.
                self._restored, self._member = False, False
            case _:
                self._note(event)

    def _note(self, event: Observation) -> None:
        """What is told of, and makes nobody ready or not."""
        match event:
            case BatchCommitted():
                self._batch(event)
            case CommitFailed():
                self._aborts[event.cause] += 1
            case ModelChanged():
                self._segments, self._model["version"] = event.segments, event.model_version
            case DriftMeasured():
                drift = event.drift
                features = {name: {"psi": one.psi, "distance": one.distance} for name, one in drift.features.items()}
                self._drift = {"customers": drift.n, "features": features, "shares": drift.shares, "drifted": drift.drifted}
            case Detected():
                self._told = [*self._told, {"at": self._now(), "detector": event.detector, **event.details}][-_LAST:]
            case Waiting():
                self._waiting = event.message

    def _batch(self, event: BatchCommitted) -> None:
        self._outcomes.update(event.outcomes)
        self._positions |= event.positions
        self._segments, self._committed_s, self._waiting = event.segments, event.committed_us / 1e6, None
        self._model = {
            "version": event.model_version,
            "half_life": event.half_life,
            "promotions": event.promotions,
            "epoch": event.epoch,
        }

    def status(self) -> dict[str, Any]:
        """All of it, for /status."""
        return {
            **self._who,
            "live": self.live,
            "ready": self.ready,
            "uptime_seconds": round(self._now() - self._began, 3),
            "heard_seconds_ago": round(self.pulse.silence_s, 3),
            "partitions": {p: {"next_offset": at, "lag": self._lags.get(p)} for p, at in sorted(self._positions.items())},
            "events": dict(self._outcomes),
            "aborts": dict(self._aborts),
            "last_commit_seconds": self._committed_s,
            "model": self._model,
            "segments": self._segments,
            "drift": self._drift,
            "detections": self._told,
            "waiting": self._waiting,
            "stopped": self.pulse.stopped,
            "failed": sorted(map(str, self.pulse.failed)),
        }

"""Prometheus metrics, from what observers are told after a commit: an aborted batch counts nothing but the abort.

Every series is there from the start, and their number is bounded: at most 64 segments and 64 features, never a customer.
Where lag is asked for between two polls it is answered at the time of the question, so a loop that hangs does not look well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import product
from math import nan
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from streamseg import __version__
from streamseg.core.model.assignment import Quality
from streamseg.core.numeric.types import Array
from streamseg.engine.events import (
    BatchCommitted,
    CommitFailed,
    Detected,
    DriftMeasured,
    ModelChanged,
    Observation,
    PartitionsMoved,
    Polling,
    Profiled,
    Restoring,
    SegmentSummary,
    SnapshotTaken,
    Started,
    Stopped,
    Suspended,
)
from streamseg.errors import DeadLetterCode
from streamseg.observability.histogram import BulkHistogram
from streamseg.observability.lag import LagClock

# Half of all series otherwise, and nobody asks for them.
_quiet: Any = disable_created_metrics
_quiet()

OUTCOMES = ("assigned", "waiting", "warming_up", "erased", "dead_letter", "dropped", "duplicate")
CHANGES = ("new", "moved", "unchanged")
REASONS = ("event", "model_update", "time")
STAGES = ("poll", "process", "commit", "catch_up")
CAUSES = ("aborted", "unknown")
DETECTORS = ("loss", "feature", "shares")
STATES = ("restoring", "running", "suspended")
# Beyond so many segments pairs of them are too many series.
_MOST_PAIRED = 16
# Tags that silhouette, inertia and outliers are means over, at least.
_QUALITY_ROWS = 10_000
_LATENCY_BUCKETS_S = tuple(round(0.005 * 2 ** (i / 2), 4) for i in range(33))
_STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self, topic: str, features: Iterable[str] = (), now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._topic, self._now = topic, now
        self._segments: dict[int, str] = {}
        # Partitions and segments that have series.
        self._owned: set[int] = set()
        self._counted: set[int] = set()
        self._quality: deque[Quality] = deque()
        self._define()
        self._lag = LagClock(now)
        self._latency = BulkHistogram(
            "streamseg_end_to_end_latency_seconds",
            "From a record's making to its tag's commit.",
            _LATENCY_BUCKETS_S,
        )
        self.registry.register(self._latency)
        self._begin(features)

    def _define(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streamseg_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streamseg_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"streamseg_{name}", text, labels, registry=self.registry, buckets=_STAGE_BUCKETS_S)

        self.events = counter("events_total", "Input records by what became of them.", "outcome")
        self.dead_letters = counter("dead_letters_total", "Records that could not be used, by reason.", "code")
        self.quarantined = counter("quarantined_total", "Records on which the program raised: dead letters `unusable`.")
        self.erasures = counter("erasures_total", "Erasures, by whether there was such a customer.", "found")
        self.assignments = counter("assignments_total", "Tags, also those of sweeps.", "segment", "change", "reason")
        self.transitions = counter("transitions_total", "Moves between segments (up to 16 segments).", "from", "to")
        self.customers = gauge("customers", "Customers in each segment, of all workers.", "segment")
        self.segment_info = gauge("segment_info", "1; the name of each segment.", "segment", "name")
        self.segment_rule = gauge("segment_rule_info", "1; the rule that describes each segment.", "segment", "rule")
        self.segment_center = gauge("segment_center", "Centers in your units (up to 16 segments).", "segment", "feature")
        self.segment_mean = gauge("segment_mean", "Customers' means in your units (up to 16).", "segment", "feature")
        self.segment_z = gauge("segment_z", "Centers in deviations from the mean (up to 16).", "segment", "feature")
        self.stage = histogram("stage_seconds", "Time of a batch by stage.", "stage")
        self.commit = histogram("commit_seconds", "Time of the commit of a batch.")
        self.lag_records = gauge(
            "consumer_lag_records", "Records not read yet; NaN where that is not known, as of files.", "topic", "partition"
        )
        self.polled = gauge("last_poll_timestamp_seconds", "When the input was last asked for records; the start counts.")
        self.lag_seconds = gauge("consumer_lag_seconds", "Age of the oldest record without a tag.", "topic", "partition")
        self.drift = gauge("feature_drift", "Distance of recent customers from the reference.", "feature", "measure")
        self.drift_critical = gauge(
            "feature_drift_critical", "What chance exceeds in 1 % of windows of this size.", "feature", "measure"
        )
        self.share_drift = gauge("share_drift", "PSI of the segments' shares against the reference.")
        self.share_drift_critical = gauge("share_drift_critical", "What chance exceeds in 1 % of windows of this size.")
        self.share_off = gauge("share_change_ratio", "Largest change of a segment's share, as a share of what it was.")
        self.drift_customers = gauge("drift_window_customers", "Customers that drift was measured on.")
        self.shift = gauge("center_shift_sigmas", "How far a center moved.", "segment", "baseline")
        self.inertia = gauge("inertia", "Mean squared distance of recent events to their center.")
        self.silhouette = gauge("silhouette", "Mean simplified silhouette of recent events.")
        self.outliers = gauge("outlier_ratio", "Share of recent events that are outliers of their segment.")
        self.detections = counter(
            "drift_detections_total", "How often drift was told; every worker tells of the loss.", "detector"
        )
        self.model_info = gauge("model_info", "1; what the model is.", "version", "half_life", "segments", "epoch")
        self.model_version = gauge("model_version", "Records of the model log that were applied.")
        self.model_updated = gauge("model_updated_timestamp_seconds", "When the model last learned.")
        self.model_changes = counter(
            "model_changes_total", "What became of the model; every worker counts all of it.", "what"
        )
        self.snapshot_due = gauge("snapshot_due_ratio", "Log since the last snapshot over what makes one due.")
        self.snapshot = gauge("snapshot_timestamp_seconds", "When the state was last written whole; the start counts.")
        self.restore_remaining = gauge("restore_remaining_records", "Records of state still to read back.", "partition")
        self.task_state = gauge("task_state", "1 for the state that a partition is in.", "partition", "state")
        self.aborts = counter("transaction_aborts_total", "Commits that came to nothing.", "cause")
        self.fenced = counter("fenced_total", "How often another worker had taken this one's place.")
        self.guarded = counter("guarded_total", "Features that were clipped, times that were held back.", "guard")
        self.refused = gauge("model_refused_rows", "Rows that a model of model.factory could not learn, of all workers.")
        self.worker_customers = gauge("worker_customers", "Customers in this worker's state.")

    def _begin(self, features: Iterable[str]) -> None:
        """Series that are known beforehand, so that no panel is empty."""
        for metric, values in (
            (self.events, OUTCOMES), (self.dead_letters, [code.value for code in DeadLetterCode]), (self.stage, STAGES),
            (self.aborts, CAUSES), (self.detections, DETECTORS), (self.guarded, ("clip_sigmas", "max_ahead")),
            (self.model_changes, ("started", "metric_renewed", "promoted", "segments_changed")),
        ):  # fmt: skip
            for value in values:
                metric.labels(value)
        for feature in features:
            for measure in ("psi", "wasserstein"):
                self.drift.labels(feature, measure).set(nan)
                self.drift_critical.labels(feature, measure).set(nan)
        self.model_info.labels(__version__, "", "0", "0").set(1)
        for quality in (self.inertia, self.silhouette, self.outliers):
            quality.set(nan)
        self.snapshot.set(self._now())
        self.polled.set_function(lambda: self._lag.polled_at)

    def observe(self, event: Observation) -> None:
        react = self._reactions.get(type(event))
        if react is not None:
            react(event)

    @cached_property
    def _reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {
            Polling: self._lag.polled,
            BatchCommitted: self._batch,
            CommitFailed: lambda event: self.aborts.labels(event.cause).inc(),
            Suspended: self._suspended,
            Started: self._started,
            PartitionsMoved: self._moved,
            Restoring: self._restoring,
            ModelChanged: self._changed,
            DriftMeasured: self._drift,
            Profiled: self._profiled,
            Detected: lambda event: self.detections.labels(event.detector).inc(),
            SnapshotTaken: lambda event: self.snapshot.set(self._now()),
            Stopped: lambda event: self.fenced.inc(event.reason == "FencedError"),
        }

    def _suspended(self, _: Suspended) -> None:
        for partition in self._owned:
            self._task(partition, "suspended")

    def _restoring(self, event: Restoring) -> None:
        # Whether it gets as far as owning it or not: its series go with the rest.
        self._owned.add(event.partition)
        self.restore_remaining.labels(event.partition).set(event.remaining)
        self._task(event.partition, "running" if event.remaining == 0 else "restoring")

    def _changed(self, event: ModelChanged) -> None:
        self.model_changes.labels(event.what).inc()
        self._set_segments(event.segments)
        self.model_version.set(event.model_version)

    def _started(self, event: Started) -> None:
        self.model_version.set(event.model_version)
        self.worker_customers.set(event.customers)
        self._set_segments(event.segments)
        # Also after an unknown outcome, when others may have taken over in the meantime.
        self._let_go(self._owned - event.positions.keys())
        for partition in event.positions:
            self._own(partition)

    def _moved(self, event: PartitionsMoved) -> None:
        self.worker_customers.set(event.customers)
        for partition in event.gained:
            self._own(partition)
        self._let_go(self._owned.intersection(event.lost))

    def _let_go(self, partitions: set[int]) -> None:
        self._owned -= partitions
        for partition in partitions:
            self._lag.drop(partition)
            for metric in (self.lag_records, self.lag_seconds):
                metric.remove(self._topic, partition)
            self.restore_remaining.remove(partition)
            for state in STATES:
                self.task_state.remove(partition, state)

    def _own(self, partition: int) -> None:
        self._owned.add(partition)
        self.lag_records.labels(self._topic, partition).set_function(lambda: self._lag.records(partition))
        self.lag_seconds.labels(self._topic, partition).set_function(lambda: self._lag.seconds(partition))
        self.restore_remaining.labels(partition)
        self._task(partition, "running")

    def _task(self, partition: int, state: str) -> None:
        for name in STATES:
            self.task_state.labels(partition, name).set(name == state)

    def _batch(self, event: BatchCommitted) -> None:
        for outcome, n in event.outcomes.items():
            self.events.labels(outcome).inc(n)
        for code, n in event.dead_letters.items():
            self.dead_letters.labels(code).inc(n)
        self.erasures.labels("true").inc(event.erasures_found)
        self.erasures.labels("false").inc(event.outcomes.get("erased", 0) - event.erasures_found)
        self.quarantined.inc(sum(event.defects.values()))
        for (segment, change, reason), n in event.assignments.items():
            self.assignments.labels(segment, change, reason).inc(n)
            self._counted.add(segment)
        if len(event.segments) <= _MOST_PAIRED:
            for (before, after), n in event.transitions.items():
                if before in self._segments and after in self._segments:
                    self.transitions.labels(before, after).inc(n)
        for stage, seconds in event.stages.items():
            self.stage.labels(stage).observe(seconds)
        self.commit.observe(event.stages.get("commit", 0.0))
        self._latency.observe(self._latencies(event))
        self._lag.committed(event)
        for partition in event.positions:
            self._task(partition, "running")
        self.guarded.labels("clip_sigmas").inc(event.clipped)
        self.guarded.labels("max_ahead").inc(event.held_back)
        self.refused.set(event.refused)
        self._set_segments(event.segments)
        self._model(event)
        self.snapshot_due.set(event.snapshot_due)
        self._note_quality(event.quality)

    def _latencies(self, event: BatchCommitted) -> Array:
        made = np.concatenate([np.empty(0), *event.produced_ms.values()])
        seconds: Array = np.maximum(event.committed_us / 1e6 - made[~np.isnan(made)] / 1e3, 0.0)
        return seconds

    def _model(self, event: BatchCommitted) -> None:
        self.model_version.set(event.model_version)
        self.model_updated.set(event.committed_us / 1e6)
        self.model_info.clear()
        self.model_info.labels(__version__, event.half_life, len(event.segments), event.epoch).set(1)

    def _note_quality(self, quality: Quality) -> None:
        if not quality.rows:
            return
        self._quality.append(quality)
        rows = sum(one.rows for one in self._quality)
        while rows - self._quality[0].rows >= _QUALITY_ROWS:
            rows -= self._quality.popleft().rows
        if rows:
            self.inertia.set(sum(one.squared for one in self._quality) / rows)
            self.silhouette.set(sum(one.silhouette for one in self._quality) / rows)
            self.outliers.set(sum(one.outliers for one in self._quality) / rows)

    def _set_segments(self, segments: tuple[SegmentSummary, ...]) -> None:
        names = {segment.id: segment.name for segment in segments}
        if names != self._segments:
            self._rename(names)
        for segment in segments:
            self.customers.labels(segment.id).set(segment.customers)
            self.shift.labels(segment.id, "metric").set(segment.shift)
            self.shift.labels(segment.id, "birth").set(segment.since_birth)

    def _rename(self, names: Mapping[int, str]) -> None:
        self._forget((self._counted | self._segments.keys()) - names.keys())
        self._counted = set(names)
        self._segments = dict(names)
        self.segment_info.clear()
        for segment, name in names.items():
            self.segment_info.labels(segment, name).set(1)
            for change, reason in product(CHANGES, REASONS):
                self.assignments.labels(segment, change, reason)
            if len(names) <= _MOST_PAIRED:
                for other in names:
                    if other != segment:
                        self.transitions.labels(segment, other)

    def _forget(self, segments: set[int]) -> None:
        """Ids are never used again, so what is told of segments that are no more would grow for ever."""
        for gone in segments:
            self.customers.remove(gone)
            for baseline in ("metric", "birth"):
                self.shift.remove(gone, baseline)
            for change, reason in product(CHANGES, REASONS):
                self.assignments.remove(gone, change, reason)
            for other in self._counted:
                self.transitions.remove(gone, other)
                self.transitions.remove(other, gone)

    def _profiled(self, event: Profiled) -> None:
        for metric in (self.segment_rule, self.segment_center, self.segment_mean, self.segment_z):
            metric.clear()
        for one in event.profiles:
            if one.rule is not None:
                self.segment_rule.labels(one.segment_id, one.rule.text).set(1)
            if len(event.profiles) > _MOST_PAIRED:
                continue
            for feature, value in one.center.items():
                self.segment_center.labels(one.segment_id, feature).set(nan if value is None else value)
            for feature, value in one.mean.items():
                self.segment_mean.labels(one.segment_id, feature).set(nan if value is None else value)
            for feature, z in one.z.items():
                self.segment_z.labels(one.segment_id, feature).set(z)

    def _drift(self, event: DriftMeasured) -> None:
        drift = event.drift
        for name, one in drift.features.items():
            for measure, value in (("psi", one.psi), ("wasserstein", one.distance)):
                self.drift.labels(name, measure).set(value.value)
                self.drift_critical.labels(name, measure).set(value.critical)
        self.share_drift.set(drift.shares.value)
        self.share_drift_critical.set(drift.shares.critical)
        self.share_off.set(drift.share_off)
        self.drift_customers.set(drift.n)

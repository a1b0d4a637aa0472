"""The job: a batch of records to a commit plan, and back from the logs to state.

A plan changes nothing. What it publishes comes back: the model delta through the model log, like everybody's; the
customers' deltas through `committed`, by the function that restores them. An abort costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import partial

import msgspec

from streamseg.core.model.codec import pack
from streamseg.core.model.drift import Drift
from streamseg.core.model.initialization import start_from_warm_up, warm_up_over
from streamseg.core.model.policy import decided, due, names_at_end
from streamseg.core.model.records import Asked, Decision, Postponed, Renamed, Start
from streamseg.core.model.refit import search_table
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Array, Ints
from streamseg.engine.catalog import catalog_messages, catalog_of, segment_records
from streamseg.engine.clock import Clock
from streamseg.engine.events import Detected, ModelChanged, Observation, SegmentSummary, SnapshotTaken, Waiting
from streamseg.engine.log_records import (
    FORMAT_VERSION,
    BatchRecord,
    DecisionRecord,
    Genesis,
    Manifest,
    OffsetMetadata,
    decode_model_record,
    encode_entry,
)
from streamseg.engine.model_delta import learned
from streamseg.engine.partition import PartitionJob, PartitionResult
from streamseg.engine.pending_commit import (
    KeptSnapshot,
    Planned,
    PlannedModelSnapshot,
    PlannedSnapshot,
    batch_committed,
    snapshot_pieces,
)
from streamseg.engine.ports import (
    NO_TOPIC_IDS,
    CommitPlan,
    CommitResult,
    Committed,
    Log,
    Ownership,
    Polled,
    Records,
    TopicIds,
)  # fmt: skip
from streamseg.engine.quarantine import process
from streamseg.engine.replica import Replica
from streamseg.engine.schemas import Schemas
from streamseg.engine.settings import JobSettings
from streamseg.engine.shifts import Shifts
from streamseg.engine.steps import cut, due_within, until_step
from streamseg.engine.sweeps import next_sweep
from streamseg.engine.task import Task, TaskState
from streamseg.engine.window import WINDOW, DriftMeter, latest_customers
from streamseg.errors import ConfigError
from streamseg.formats.events import Decoder, EventDecoder
from streamseg.formats.frames import Entry, frames
from streamseg.formats.frames import cut as cut_payload
from streamseg.formats.outputs import SegmentRecord
from streamseg.formats.wire import KnownSchema

# Erased customers leave the log by the next snapshot, which comes at the latest after so many batches.
_ERASURE_BATCHES = 20


class Job:
    """One worker's share of an application: a replica of the model, and a task for each owned partition."""

    def __init__(self, settings: JobSettings, clock: Clock, n_partitions: int) -> None:
        self.settings = settings
        self.clock = clock
        self.n_partitions = n_partitions
        self.replica = Replica(settings.model, settings.config)
        self.tasks: dict[int, Task] = {}
        self.schemas = Schemas(settings.fields, settings.written, self.replica)
        self.decoder: Decoder = EventDecoder(settings.fields, settings.max_record_bytes, self.schemas.book)
        self.model_snapshots: list[KeptSnapshot] = []
        self._shifts = Shifts()
        self._drift = DriftMeter(settings)

    @property
    def state(self) -> ModelState:
        return self.replica.state

    # -- Plans --------------------------------------------------------------------------------------------------------

    def plan_genesis(
        self, ownership: Ownership, starts: Mapping[int, int], start: Start | None, topics: TopicIds = NO_TOPIC_IDS
    ) -> CommitPlan:
        """The first record of a model log, and the warm start if there is one. Of several the log's first counts."""
        config, n, written = self.settings.config, self.n_partitions, dict(topics.written)
        genesis = Genesis(FORMAT_VERSION, config, n, dict(starts), topics.input, written)
        plan = CommitPlan(ownership, {}, internal=[(Log.MODEL, 0, encode_entry(genesis))])
        if start is None:
            return plan
        started = self._plan_of(start, ownership, {}, ModelState.empty(self.settings.model))
        return dataclasses.replace(started, internal=[*plan.internal, *started.internal])

    def until_step(self) -> dict[int, int]:
        """By partition, how many more accepted records its open step takes."""
        return {p: until_step(task.mark, self.settings) for p, task in self.tasks.items()}

    def cut(self, records: Mapping[int, Records], most: Mapping[int, int]) -> tuple[dict[int, Records], dict[int, Records]]:
        """Records up to `most` of each partition, none going beyond the end of its step, and the rest. IN both."""
        ends = dict(most)
        if self.settings.layout.fades and self.state.ready:
            for p, each in records.items():
                look = partial(self.decoder.decode, now_us=self.clock.now_us())
                ends[p] = due_within(look, each.part(0, most[p]), self.tasks[p], self.state, self.settings) or most[p]
        return cut(records, ends)

    def plan_batch(self, polled: Polled, *, drained: bool) -> Planned:
        """What records of owned partitions publish, none going beyond a step. IN polled; `drained`: no more are waiting."""
        clock_us = self.clock.now_us()
        results: dict[int, PartitionResult] = {}
        for partition, records in sorted(polled.partitions.items()):
            make = partial(PartitionJob, self.tasks[partition], self.state, self.settings, clock_us)
            results[partition] = process(make, records, self.decoder)
        reached = any(r.delta.mark.closed_at > self.tasks[p].mark.closed_at for p, r in results.items())
        schemas = self.schemas.new_in(polled.partitions.values())
        record = self.batch_record(results, clock_us, closes=drained or reached, schemas=schemas)
        return self._planned(polled.ownership, results, record)

    def plan_between(self, ownership: Ownership, *, idle: bool, ended: bool = False) -> Planned | None:
        """A slice of each sweep at a step; where the input is `idle`, the next slice at once, and the end of an open step.

        Where the input has `ended`, all customers come to be seen as of its latest event. None where nothing is pending.
        """
        clock_us = self.clock.now_us()
        results: dict[int, PartitionResult] = {}
        unclosed = {part.partition for record in self.replica.open for part in record.manifest.partitions}
        for partition, task in sorted(self.tasks.items()):
            accepted = task.mark.accepted
            sweep = next_sweep(task.mark, self.state, self.settings, len(task.table), ended=ended)
            sweeps = sweep.active and (idle or (task.mark.closed_at == accepted and sweep.at != accepted))
            if sweeps or (idle and partition in unclosed):
                job = PartitionJob(task, self.state, self.settings, clock_us, ended=ended)
                results[partition] = job.idle(sweeps=sweeps)
        if not results:
            return None
        return self._planned(ownership, results, self.batch_record(results, clock_us, closes=True))

    def batch_record(
        self,
        results: Mapping[int, PartitionResult],
        clock_us: int,
        *,
        closes: bool,
        schemas: Iterable[KnownSchema] = (),
    ) -> BatchRecord:
        """Manifest and model delta of a batch, which closes the open step or does not."""
        manifest = Manifest(
            FORMAT_VERSION,
            self.replica.config_digest,
            self.state.version,
            self.replica.digest,
            clock_us,
            [result.manifest for result in results.values()],
            self.replica.input_id,
        )
        delta = learned(self.state, self.settings.model, self.replica.digest, results, closes=closes)
        return BatchRecord(manifest, delta, list(schemas))

    def _planned(self, ownership: Ownership, results: Mapping[int, PartitionResult], record: BatchRecord) -> Planned:
        internal = []
        deltas = {}
        for partition, result in results.items():
            payload = pack(result.delta)
            internal.append((Log.CUSTOMERS, partition, list(frames(cut_payload(payload)))))
            deltas[partition] = (result.delta, len(payload))
        internal.append((Log.MODEL, 0, encode_entry(record)))
        plan = CommitPlan(
            ownership,
            {
                partition: Committed(
                    result.delta.mark.next,
                    OffsetMetadata(result.delta.mark.seq, self.tasks[partition].snapshots).encode(),
                )
                for partition, result in results.items()
            },
            {partition: result.tags for partition, result in results.items() if result.tags.ids},
            (),
            {partition: result.dead_letters for partition, result in results.items() if result.dead_letters},
            internal,
            {p: (r.manifest.tags_first, r.manifest.letters_first) for p, r in results.items()},
            self.schemas.of_tags(),
        )
        return Planned(plan, deltas, partial(batch_committed, results, record))

    def plan_decision(self, ownership: Ownership, *, input_ended: bool) -> Planned | None:
        """What is due in the model (first centers, a promotion, a search), with its catalog records. None where nothing is.

        The owner of partition 0 proposes it, so that workers do not all do it; the log decides.
        """
        if 0 not in self.tasks:
            return None
        decision = self.decision(input_ended=input_ended)
        if decision is None:
            return None
        return Planned(self._plan_of(decision, ownership, self._touched_offsets(), self.replica.copy_of_state()), {})

    def plan_rename(self, segment: int, name: str) -> CommitPlan:
        """A person's name for a segment: beside the workers, who take it from the log."""
        return self.plan_of(Renamed(self.state.version, segment, name))

    def _plan_of(
        self, decision: Decision, ownership: Ownership, offsets: Mapping[int, Committed], state: ModelState
    ) -> CommitPlan:
        """A decision and its catalog records. INOUT state: as of before the decision."""
        clock_us = self.clock.now_us()
        catalog = catalog_of(state, self.settings.model, decision, clock_us)
        internal = [(Log.MODEL, 0, encode_entry(DecisionRecord(decision, clock_us)))]
        return CommitPlan(ownership, offsets, catalog=catalog, internal=internal)

    def plan_of(self, decision: Decision) -> CommitPlan:
        """A decision and its catalog records, without offsets."""
        return self._plan_of(decision, Ownership(0, ()), {}, self.replica.copy_of_state())

    def decision(self, *, input_ended: bool) -> Decision | None:
        """What is due in the model; None where nothing is. The log decides whether it comes to be."""
        state, spec, digest = self.state, self.settings.model, self.replica.digest
        if due(state, spec) == "search":
            return search_table(state, spec, digest)
        if self.asks:
            return Asked(state.version, digest)
        if state.ready:
            return decided(state, spec, digest) or (names_at_end(state, spec, digest) if input_ended else None)
        if not warm_up_over(state, spec, input_ended=input_ended):
            return None
        return start_from_warm_up(state, spec, digest) or Postponed(state.version, digest)

    @property
    def asks(self) -> bool:
        """Whether the loss has risen, and a search is to be asked for."""
        return self.settings.model.refits and self.replica.watch.unanswered and self.state.trial is None

    def _touched_offsets(self) -> dict[int, Committed]:
        """Offsets as they stand: a commit without offsets would not be fenced."""
        return {p: Committed(task.mark.next, task.metadata.encode()) for p, task in self.tasks.items() if task.mark.seq}

    def holds_back(self) -> bool:
        """Whether to wait for first centers from the owner of partition 0: events before them would only be `warming_up`."""
        return 0 not in self.tasks and warm_up_over(self.state, self.settings.model)

    # -- After a commit -----------------------------------------------------------------------------------------------

    def committed(self, planned: Planned) -> None:
        """Apply a committed plan's customer deltas."""
        for partition, (delta, size) in planned.deltas.items():
            self.tasks[partition].apply(delta, size)

    def apply_model_entry(self, entry: Entry) -> Observation | None:
        """Apply an entry of the model log. Returns what observers should know. Raises as `Replica.apply`."""
        was_ready, epoch, twice = self.state.ready, self.state.metric.epoch, self.replica.on_two_partitions
        detections = self.replica.watch.detections
        promotions, segments = self.state.promotions, self.state.ids
        names = [segment.name for segment in self.state.segments]
        record = decode_model_record(entry.payload)
        if isinstance(record, Genesis) and record.n_partitions != self.n_partitions:
            raise ConfigError(
                f"the input has {self.n_partitions} partitions, the state was written for {record.n_partitions}",
                hint="customers would move between partitions; start a new application from the input's beginning",
            )
        self.replica.apply(record, entry.end)
        if self.state.ready and (not was_ready or self.state.metric.epoch != epoch):
            what = "metric_renewed" if was_ready else "started"
            return ModelChanged(what, self.state.version, self.segments())
        if self.state.ids != segments or self.state.promotions != promotions:
            what = "segments_changed" if set(self.state.ids) != set(segments) else "promoted"
            return ModelChanged(what, self.state.version, self.segments())
        if [segment.name for segment in self.state.segments] != names:
            return ModelChanged("renamed", self.state.version, self.segments())
        if self.replica.watch.detections > detections:
            return Detected("loss", "customers lie farther from the centers than they did", {"version": self.state.version})
        if not twice < self.replica.on_two_partitions:
            return None
        return Waiting(
            "customer_on_two_partitions",
            "the same customers come on several partitions of the input, so each partition has its own picture of them",
            {"sampled": self.replica.on_two_partitions, "hint": "key the input by customer: see `streamseg repartition`"},
        )

    def segments(self) -> tuple[SegmentSummary, ...]:
        """Segments by falling size."""
        return self._shifts.summaries(self.state, self.settings.model)

    @property
    def n_customers(self) -> int:
        """Customers in the state of this worker."""
        return sum(task.table.n_customers for task in self.tasks.values())

    def drift(self, window: tuple[Array, Ints] | None = None) -> Drift | None:
        """Customers of late, this worker's or those of `window`, against the reference; None where there are too few."""
        tasks, n_weighted = self.tasks.values(), self.settings.layout.n_weighted
        return self._drift.measured(self.state, lambda: window or latest_customers(tasks, n_weighted, WINDOW))

    # -- Snapshots ----------------------------------------------------------------------------------------------------

    def snapshots_due(self, postponed: Mapping[int, float], *, stopping: bool = False) -> dict[int, float]:
        """Partitions whose customers should be written whole, with what was written since as a share of what makes that due.

        `postponed`: the same of partitions where the last try came to nothing. The next one waits until as much again was
        written, so that a snapshot that does not work holds nothing up for long. `stopping`: also where somebody was erased.
        """
        due = {}
        for p, task in self.tasks.items():
            ratio = max(self._due_ratio(task), task.mark.batches / _ERASURE_BATCHES if task.mark.erased else 0.0)
            if ratio >= 1 + postponed.get(p, 0.0) or (stopping and task.mark.erased):
                due[p] = ratio
        return due

    def snapshot_due(self) -> float:
        """What was written since the last snapshots, as a share of what makes one due: the largest of all partitions."""
        return max(map(self._due_ratio, self.tasks.values()), default=0.0)

    def _due_ratio(self, task: Task) -> float:
        written = task.delta_bytes / max(task.snapshot_bytes, self.settings.snapshot_bytes)
        return max(written, (self.state.version - task.metadata.newest) / self.settings.snapshot_versions)

    def profiles(self) -> list[SegmentRecord]:
        """What each segment is like now."""
        return segment_records(self.state, self.settings.model, self.clock.now_us()) if self.state.ready else []

    def plan_model_snapshot(self, ownership: Ownership) -> PlannedModelSnapshot:
        """A snapshot of the model. It names the version that it covers, and may come to stand behind newer deltas."""
        snapshot = self.replica.snapshot()
        plan = CommitPlan(ownership, self._touched_offsets(), internal=[(Log.MODEL_SNAPSHOTS, 0, encode_entry(snapshot))])
        return PlannedModelSnapshot(plan, snapshot.version, snapshot.next_offset)

    def model_snapshot_written(self, planned: PlannedModelSnapshot, result: CommitResult) -> None:
        self.model_snapshots.append(KeptSnapshot(planned.version, planned.next_offset, result.first_offsets[0]))

    def plan_customer_snapshot(self, ownership: Ownership, partition: int) -> PlannedSnapshot:
        """A snapshot of one partition. Its records are made while they are written, so memory stays flat."""
        task = self.tasks[partition]
        # Whoever goes on from it has at least this version: `verify` begins with it, and has none before.
        was, version = task.mark, self.state.version
        mark = msgspec.structs.replace(was, seq=was.seq + 1, model_version=version, batches=0, erased=0)
        written: list[int] = []
        clock_us = self.clock.now_us()
        pieces = snapshot_pieces(task, mark, clock_us, self.state.version, written)
        plan = CommitPlan(
            ownership,
            {partition: Committed(mark.next, OffsetMetadata(mark.seq, task.snapshots).encode())},
            catalog=catalog_messages(self.state, self.settings.model, clock_us) if self.state.ready else (),
            internal=[(Log.CUSTOMERS, partition, frames(pieces, separate=True))],
        )
        return PlannedSnapshot(plan, partition, mark, written, self.state.version)

    def customer_snapshot_written(self, planned: PlannedSnapshot, result: CommitResult) -> Observation:
        """Take note of a committed snapshot."""
        task = self.tasks[planned.partition]
        task.snapshot_written(result.first_offsets[0], sum(planned.written), planned.mark, planned.model_version)
        return SnapshotTaken(planned.partition, task.table.n_customers, planned.model_version)

    def plan_offsets(self, ownership: Ownership) -> CommitPlan:
        """Offsets as they stand, naming the snapshots that are kept: what is deleted next is no longer referred to."""
        return CommitPlan(ownership, self._touched_offsets())

    def unannounced(self) -> bool:
        """Whether a snapshot was written that no committed metadata names yet."""
        return any(task.snapshots != task.announced for task in self.tasks.values())

    def announced(self) -> None:
        for task in self.tasks.values():
            task.announced = task.snapshots

    def deletable(self, committed: Mapping[int, Committed], readable: Collection[int]) -> list[tuple[Log, int, int]]:
        """(log, partition, offset): records below are in a kept snapshot, and needed by nobody.

        `committed`: of all partitions, also others' ones: one that has committed nothing needs the whole model log.
        `readable`: offsets of model snapshots that can be read by now. One that is committed but not yet readable stands in
        for nothing: who restores meanwhile would find neither it nor what it replaces.

        One generation of customers' snapshots is kept beside the newest, and the newest model snapshot that is not newer
        than the oldest of those.
        """
        below = []
        metadata = {p: OffsetMetadata.decode(there.metadata) for p, there in committed.items()}
        for p in self.tasks.keys() & metadata.keys():
            if metadata[p].horizon:
                below.append((Log.CUSTOMERS, p, metadata[p].snapshots[0].offset))
                below.append((Log.SPOOL, p, metadata[p].snapshots[0].next_input))
        oldest = min(metadata[p].horizon if p in metadata else 0 for p in range(self.n_partitions))
        usable = [kept for kept in self.model_snapshots if kept.version <= oldest and kept.offset in readable]
        if usable:
            self.model_snapshots = self.model_snapshots[self.model_snapshots.index(usable[-1]) :]
            below += [(Log.MODEL, 0, usable[-1].next_offset), (Log.MODEL_SNAPSHOTS, 0, usable[-1].offset)]
        return below

    def suspend(self) -> None:
        """State is not to be trusted any more: it must be restored before the next plan."""
        for task in self.tasks.values():
            if task.state is not TaskState.SUSPENDED:
                task.transition(TaskState.SUSPENDED)

"""The loop of one worker.

Whatever goes wrong with a commit has one answer: drop the state, restore it from the logs, go on from what is committed. An
abort is thereby the same as a crash, and an unknown outcome is decided by what the logs say.
"""

from __future__ import annotations

import time

from streamseg.core.model import loss_monitor
from streamseg.core.model.records import Start
from streamseg.core.numeric import seeding
from streamseg.engine.clock import Clock
from streamseg.engine.events import (
    CommitFailed,
    Observer,
    PartitionsMoved,
    Restoring,
    Started,
    Stopped,
    Suspended,
    Waiting,
)
from streamseg.engine.job import Job
from streamseg.engine.pending_commit import Planned
from streamseg.engine.ports import CommitPlan, CommitResult, Log, Outcome, Ownership, Polled, Records, Transport
from streamseg.engine.restore import model_entries, note_snapshots, restore_model, restore_tasks
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import TaskState
from streamseg.errors import RetriableError, TruncatedError
from streamseg.formats.frames import entries
from streamseg.formats.wire import NO_REGISTRY, SchemaSource
from streamseg.runtime.batch_report import DRIFT_EVERY_S, DriftReports, completed, missing_model, polling, traces_of
from streamseg.runtime.stages import NoTracer, Stages, Stop, Tracer, collector_paused

_POLL_TIMEOUT_S = 0.5
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
# How long a worker waits for its own delta to come back through the log.
_OWN_DELTA_S = 0.2
_LAST_TRIES = 3
# A log that is held up for longer is freed, if its holder is dead.
_BLOCKED_S = 1.0
# What others put into the model log is on its way to us already; a look at it takes no time.
_LOOK_S = 0.001
# Between two looks for the first centers that another worker proposes.
_HOLD_S = 0.1
_LONG_S = 0.5  # what is decided for longer, while nothing is read, is told


class Loop:
    """Runs a job over a transport until the input ends, or until told to stop."""

    def __init__(
        self,
        transport: Transport,
        settings: JobSettings,
        clock: Clock,
        observer: Observer,
        stop: Stop,
        *,
        batch_records: int,
        warm_start: Start | None = None,
        max_attempts: int = 5,
        tracer: Tracer | None = None,
        drift_every_s: float = DRIFT_EVERY_S,
        schemas: SchemaSource = NO_REGISTRY,
    ) -> None:
        """`max_attempts`: failures in a row after which the error is raised; `schemas`: of values that name one."""
        self.transport, self.settings, self.clock = transport, settings, clock
        self.observer, self.stop = observer, stop
        self._batch_records = batch_records
        self.warm_start = warm_start
        self.max_attempts = max_attempts
        self._failures, self._restored = 0, False
        self._stages = Stages(tracer or NoTracer())
        self._drift, self._schemas = DriftReports(drift_every_s), schemas
        # By partition, how much was due when a snapshot did not work.
        self._postponed: dict[int, float] = {}
        self._ownership = transport.ownership()
        # The last own record of the model log that did not come back yet, and since when.
        self._unseen, self._unseen_since = -1, time.monotonic()
        self.job = Job(settings, clock, transport.n_partitions)

    def run(self) -> None:
        """Raises StreamsegError where the job cannot go on; what was committed stands."""
        reason = "signal"
        loss_monitor.load()
        seeding.load()
        try:
            while not self.stop.is_set():
                if self.step():
                    reason = "input_ended"
                    break
            self.finish()
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            self.observer.observe(Stopped(reason, {p: task.mark.next for p, task in self.job.tasks.items()}))

    def finish(self) -> None:
        """What is due at the end, tried a few times: where that does not work, the next start does it."""
        try:
            for _ in range(_LAST_TRIES if self._restored else 0):
                if self._snapshots(stopping=True):
                    break
                self._restore()
        except (RetriableError, TruncatedError) as error:
            self.observer.observe(Waiting("left_for_next_start", error.message, {"where": error.where}))

    def step(self) -> bool:
        """One step: restore, or what is due from before, or a batch. Returns whether the input has ended and all is done.

        Raises StreamsegError where the job cannot go on.
        """
        try:
            if not self._restored:
                self._restore()
                self._delete()
            failures = self._failures
            with collector_paused():
                ended = self._turn()
            if self._failures == failures:
                self._failures = 0
            return ended
        except (RetriableError, TruncatedError) as error:
            self._retry(error)
            return False

    def _turn(self) -> bool:
        """What is due comes before the batch, so that a restart does it where the run before was stopped.

        A poll comes before everything: only it tells whether partitions are still this worker's.
        """
        with self._stages.stage("poll"):
            size = min(self._batch_records, sum(self.job.until_step().values()) or self._batch_records)
            polled = self.transport.poll(size, _POLL_TIMEOUT_S)
        lags = self.transport.lags()
        self.observer.observe(polling(polled, lags))
        if polled.ownership != self._ownership:
            self._adopt(polled.ownership)
            return False
        if polled.moving or not self._settle():
            return False
        if self.job.holds_back():
            self._follow(_HOLD_S)
            self._rewind()
            return False
        rest = {p: records for p, records in polled.partitions.items() if len(records.offsets)}
        if rest:
            drained = sum(len(records.offsets) for records in rest.values()) < size and not any(lags.values())
            self._process(rest, polled.ownership, drained=drained)
            return False
        between = self.job.plan_between(polled.ownership, idle=True, ended=polled.ended)
        if between is not None:
            self._commit(between, polled)
            self._measure_drift()
            return False
        self._stages.taken()
        was_ready = self.job.state.ready
        if not self._decide(input_ended=polled.ended) or self.job.state.ready != was_ready:
            return False
        if polled.ended:
            self._measure_drift(now=True)
            if not self.job.state.ready:
                self.observer.observe(missing_model(self.job))
        return polled.ended

    def _settle(self) -> bool:
        """Commit pending decisions, snapshots and slices of sweeps. Returns False where a commit was aborted."""
        while True:
            self._catch_up()
            if not self._decide(input_ended=False) or not self._snapshots(stopping=False):
                return False
            between = self.job.plan_between(self._ownership, idle=False)
            if between is None:
                return True
            if not self._commit(between, Polled({}, self._ownership)):
                return False

    def _process(self, rest: dict[int, Records], ownership: Ownership, *, drained: bool) -> None:
        """Commit records in batches that end at steps, each followed by pending decisions, snapshots and sweeps."""
        self.job.schemas.fetch(rest.values(), self._schemas)
        while rest:
            now, rest = self.job.cut(rest, self.job.until_step())
            piece = Polled(now, ownership)
            with self._stages.stage("process", traces_of(piece)):
                planned = self.job.plan_batch(piece, drained=drained and not rest)
            if not self._commit(planned, piece) or (rest and not self._settle()):
                return
        self._measure_drift()

    def _rewind(self) -> None:
        """Poll again what was polled and not committed."""
        self.transport.seek({p: task.mark.next for p, task in self.job.tasks.items()})

    def _adopt(self, ownership: Ownership) -> None:
        """Let go of partitions that were lost, restore those that were gained: before the first event of any."""
        began = time.monotonic()
        self._ownership = ownership
        self._begin_log()
        lost, gained = self.job.tasks.keys() - ownership.partitions, ownership.partitions - self.job.tasks.keys()
        if gained:
            # Their owner may have died in the middle of one, which would hold up readers of these partitions.
            self.transport.end_dead_transactions()
        for partition in lost:
            self.job.tasks.pop(partition).transition(TaskState.CLOSED)
            self._postponed.pop(partition, None)
        restore_tasks(self.transport, self.job, ownership.partitions, self._restoring)
        self._rewind()
        seconds = time.monotonic() - began
        self.observer.observe(PartitionsMoved(tuple(sorted(gained)), tuple(sorted(lost)), self.job.n_customers, seconds))

    def _begin_log(self) -> None:
        """See to it that the model log has a genesis. Raises RetriableError."""
        if self.job.replica.genesis is not None or not self._ownership.partitions:
            return
        self._follow(wait_s=0.0)
        if self.job.replica.genesis is None:
            begins, ids = self.transport.begins(), self.transport.topic_ids()
            self._commit_plan(self.job.plan_genesis(self._ownership, begins, self.warm_start, ids))
        if self.job.replica.genesis is None:
            raise RetriableError("the model log cannot be begun", hint="the next try may find it begun")

    def _decide(self, *, input_ended: bool) -> bool:
        """Commit all pending decisions. Returns False where a commit was aborted."""
        began = time.monotonic()
        while (planned := self.job.plan_decision(self._ownership, input_ended=input_ended)) is not None:
            if (seconds := time.monotonic() - began) >= _LONG_S:
                self.observer.observe(Waiting("long_decision", f"looking for segments took {seconds:.1f} s", {}))
            if not self._commit(planned):
                return False
            began = time.monotonic()
        return True

    def _commit(self, planned: Planned, polled: Polled | None = None) -> bool:
        """Commit and apply. Where it is not known to be committed, state is restored, and what is not there comes again.

        Returns whether the state went on without that.
        """
        for task in self.job.tasks.values():
            task.transition(TaskState.COMMITTING)
        with self._stages.stage("commit", () if polled is None else traces_of(polled)):
            result = self.transport.commit(planned.plan)
        committed_us = self.clock.now_us()
        if result.outcome is not Outcome.COMMITTED:
            self.observer.observe(CommitFailed(result.outcome.value))
            self._suspend()
            # Only a poll tells whether the partitions are still this worker's.
            self.transport.poll(1, _POLL_TIMEOUT_S)
            self._restore()
            if not self._landed(planned):
                self._count_failure()
                return False
        else:
            for task in self.job.tasks.values():
                task.transition(TaskState.RUNNING)
            self.job.committed(planned)
            with self._stages.stage("catch_up"):
                self._catch_up(result.first_offsets[-1])
        if planned.observation is not None and polled is not None:
            event = planned.observation(self.job.segments())
            self.observer.observe(completed(event, polled, committed_us, self._stages.taken(), self.job))
        return result.outcome is Outcome.COMMITTED

    def _landed(self, planned: Planned) -> bool:
        return bool(planned.deltas) and all(
            p in self.job.tasks and self.job.tasks[p].mark == delta.mark for p, (delta, _) in planned.deltas.items()
        )

    def _commit_plan(self, plan: CommitPlan) -> CommitResult | None:
        """Commit a plan that no customer depends on. None where it is not known to be committed."""
        result = self.transport.commit(plan)
        if result.outcome is not Outcome.COMMITTED:
            self.observer.observe(CommitFailed(result.outcome.value))
            self._suspend()
            self._count_failure()
            return None
        own = max(
            (at for (log, *_), at in zip(plan.internal, result.first_offsets, strict=True) if log is Log.MODEL), default=-1
        )
        self._catch_up(own)
        return result

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= self.max_attempts:
            raise RetriableError(f"{self.max_attempts} commits in a row came to nothing", hint="look at the store's health")

    def _catch_up(self, own: int = -1) -> None:
        """Apply what the model log holds; wait a little for what this worker itself put there at offset `own`."""
        deadline = time.monotonic() + _OWN_DELTA_S
        while True:
            wait_s = max(0.0, deadline - time.monotonic()) if self.job.replica.next_offset <= own else _LOOK_S
            self._follow(wait_s)
            if self.job.replica.next_offset > own or time.monotonic() >= deadline:
                break
        self._unblock(own)

    def _follow(self, wait_s: float) -> None:
        """Apply what comes within the time; 0: what is there now, however long it takes to read."""
        for entry in model_entries(self.transport, self.job.replica.next_offset, wait_s):
            event = self.job.apply_model_entry(entry)
            if event is not None:
                self.observer.observe(event)

    def _unblock(self, own: int) -> None:
        """What this worker committed stays unseen where a transaction before it is open: if its owner is dead, end that."""
        now = time.monotonic()
        self._unseen = max(self._unseen, own)
        if self.job.replica.next_offset > self._unseen:
            self._unseen, self._unseen_since = -1, now
        elif now - self._unseen_since > _BLOCKED_S:
            self._unseen_since = now
            self.transport.end_dead_transactions()

    def _snapshots(self, *, stopping: bool) -> bool:
        """Write what is due, then delete what that makes superfluous. Returns False where a commit came to nothing.

        A model snapshot goes before: `verify` needs one that is not newer than the oldest customers' snapshot.
        """
        ownership = self._ownership
        due = self.job.snapshots_due(self._postponed, stopping=stopping)
        if due:
            model = self.job.plan_model_snapshot(ownership)
            result = self._commit_snapshot(model.plan, due)
            if result is None:
                return False
            self.job.model_snapshot_written(model, result)
        for partition, ratio in due.items():
            customers = self.job.plan_customer_snapshot(ownership, partition)
            result = self._commit_snapshot(customers.plan, {partition: ratio})
            if result is None:
                return False
            self._postponed.pop(partition, None)
            self.observer.observe(self.job.customer_snapshot_written(customers, result))
        if self.job.unannounced():
            if self._commit_plan(self.job.plan_offsets(ownership)) is None:
                return False
            self.job.announced()
            self._delete()
        return True

    def _commit_snapshot(self, plan: CommitPlan, due: dict[int, float]) -> CommitResult | None:
        """None, or an error, where it is not known to be committed: those that are due wait before they are tried again."""
        before, self._postponed = self._postponed, self._postponed | due
        result = self._commit_plan(plan)
        if result is not None:
            self._postponed = before
        return result

    def _delete(self) -> None:
        found = entries(self.transport.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots")
        for log, partition, offset in self.job.deletable(self.transport.committed(), note_snapshots(self.job, found)):
            self.transport.delete_below(log, partition, offset)

    def _restore(self) -> None:
        began = time.monotonic()
        self._ownership = self.transport.ownership()
        self.job = Job(self.settings, self.clock, self.transport.n_partitions)
        restore_model(self.transport, self.job)
        self._begin_log()
        restore_tasks(self.transport, self.job, self._ownership.partitions, self._restoring)
        self._restored = True
        positions = {p: task.mark.next for p, task in self.job.tasks.items()}
        self.transport.seek(positions)
        seconds = time.monotonic() - began
        name, version, segments = self.settings.application, self.job.state.version, self.job.segments()
        self.observer.observe(Started(name, positions, version, self.job.n_customers, seconds, segments))

    def _retry(self, error: RetriableError | TruncatedError) -> None:
        """Restore and go on, after a pause; raises the error when it keeps coming back."""
        self._failures += 1
        if self._failures >= self.max_attempts:
            raise error
        self.observer.observe(Waiting("retrying", error.message, {"attempt": self._failures, "where": error.where}))
        self._suspend()
        self.stop.wait(min(_FIRST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S))

    def _measure_drift(self, *, now: bool = False) -> None:
        for event in self._drift.due(self.job, now=now):
            self.observer.observe(event)

    def _suspend(self) -> None:
        """The state is not to be trusted any more: the next step restores it."""
        self._restored = False
        self.job.suspend()
        self.observer.observe(Suspended())

    def _restoring(self, partition: int, remaining: int) -> None:
        self.transport.keep_place()
        self.observer.observe(Restoring(partition, remaining))

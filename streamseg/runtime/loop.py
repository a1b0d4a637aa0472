"""The loop of one worker.

Whatever goes wrong with a commit has one answer: drop the state, restore it from the logs, go on from what is committed. An
abort is thereby the same as a crash, and an unknown outcome is decided by what the logs say.
"""

from __future__ import annotations

import time
from typing import Protocol

from streamseg.errors import RetriableError
from streamseg.model.records import Start
from streamseg.processing.clock import Clock
from streamseg.processing.job import Job
from streamseg.processing.observe import Observation, Observer, Started, Stopped, Waiting
from streamseg.processing.planned import Planned
from streamseg.processing.restore import model_entries, restore
from streamseg.processing.settings import JobSettings
from streamseg.processing.task import TaskState
from streamseg.processing.transport import CommitPlan, CommitResult, Outcome, Transport

_POLL_TIMEOUT_S = 0.5
_MAX_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.1


class Stop(Protocol):
    """Says when to stop; `wait` returns early if it does."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


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
    ) -> None:
        self.transport, self.settings, self.clock = transport, settings, clock
        self.observer, self.stop = observer, stop
        self.batch_records = batch_records
        self.warm_start = warm_start
        self._failures = 0
        self.job: Job

    def run(self) -> None:
        """Raises StreamsegError where the job cannot go on; what was committed stands."""
        self._restore()
        reason = "signal"
        try:
            self._delete()
            while not self.stop.is_set():
                if self._turn():
                    reason = "input_ended"
                    break
            while not self._snapshots(stopping=True):
                pass
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            self._observe(Stopped(reason, {p: task.mark.next for p, task in self.job.tasks.items()}))

    def _turn(self) -> bool:
        """One step: what is due from before, or a batch. Returns whether the input has ended and all is done.

        What is due comes first, so that a restart does it where the run before was stopped.
        """
        try:
            if self.job.replica.genesis is None:
                self._commit_plan(self.job.plan_genesis(self.transport.ownership(), self.warm_start))
                return False
            if self._start(input_ended=False):
                return False
            self._snapshots(stopping=False)
            polled = self.transport.poll(self.batch_records, _POLL_TIMEOUT_S)
            if any(len(records.offsets) for records in polled.partitions.values()) or self.job.sweep_pending():
                self._commit(self.job.plan_batch(polled))
                return False
            if self._start(input_ended=polled.ended):
                return False
            if polled.ended:
                self._explain_missing_model()
            return polled.ended
        except RetriableError as error:
            self._retry(error)
            return False

    def _start(self, *, input_ended: bool) -> bool:
        """Commit first centers if they are due. Returns whether they were."""
        planned = self.job.plan_start(self.transport.ownership(), input_ended=input_ended)
        if planned is not None:
            self._commit(planned)
        return planned is not None

    def _commit(self, planned: Planned) -> None:
        """Commit and apply; where it is not committed, the state is restored and the batch comes again."""
        for task in self.job.tasks.values():
            task.transition(TaskState.COMMITTING)
        result = self.transport.commit(planned.plan)
        if result.outcome is not Outcome.COMMITTED:
            self.job.suspend()
            self._restore()
            if not self._landed(planned):
                self._count_failure()
                return
        else:
            for task in self.job.tasks.values():
                task.transition(TaskState.RUNNING)
            self.job.committed(planned)
            self._catch_up()
        self._failures = 0
        if planned.observation is not None:
            self._observe(planned.observation(self.job.segments()))

    def _landed(self, planned: Planned) -> bool:
        return bool(planned.deltas) and all(
            self.job.tasks[p].mark.seq >= delta.mark.seq for p, (delta, _) in planned.deltas.items()
        )

    def _commit_plan(self, plan: CommitPlan) -> CommitResult | None:
        """Commit a plan that no customer depends on. None where it is not known to be committed."""
        result = self.transport.commit(plan)
        if result.outcome is not Outcome.COMMITTED:
            self._restore()
            self._count_failure()
            return None
        self._catch_up()
        return result

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= _MAX_ATTEMPTS:
            raise RetriableError(f"{_MAX_ATTEMPTS} commits in a row came to nothing", hint="look at the store's health")

    def _catch_up(self) -> None:
        """Apply what the model log holds, own records included."""
        for entry in model_entries(self.transport, self.job.replica.next_offset):
            event = self.job.apply_model_entry(entry)
            if event is not None:
                self._observe(event)

    def _snapshots(self, *, stopping: bool) -> bool:
        """Write what is due, then delete what that makes superfluous. Returns False where a commit came to nothing."""
        ownership = self.transport.ownership()
        due = self.job.snapshots_due(stopping=stopping)
        if due:
            model = self.job.plan_model_snapshot(ownership)
            result = self._commit_plan(model.plan)
            if result is None:
                return False
            self.job.model_snapshot_written(model, result)
        for partition in due:
            customers = self.job.plan_customer_snapshot(ownership, partition)
            result = self._commit_plan(customers.plan)
            if result is None:
                return False
            self._observe(self.job.customer_snapshot_written(customers, result))
        if self.job.unannounced():
            if self._commit_plan(self.job.plan_offsets(ownership)) is None:
                return False
            self.job.announced()
            self._delete()
        return True

    def _delete(self) -> None:
        for log, partition, offset in self.job.deletable():
            self.transport.delete_below(log, partition, offset)

    def _restore(self) -> None:
        began = time.monotonic()
        ownership = self.transport.ownership()
        self.job = restore(self.transport, self.settings, self.clock, ownership.partitions)
        self.transport.seek({p: task.mark.next for p, task in self.job.tasks.items()})
        customers = sum(task.table.n_customers for task in self.job.tasks.values())
        positions = {p: task.mark.next for p, task in self.job.tasks.items()}
        seconds = time.monotonic() - began
        version, segments = self.job.state.version, self.job.segments()
        self._observe(Started(self.settings.application, positions, version, customers, seconds, segments))

    def _retry(self, error: RetriableError) -> None:
        """Restore and go on, after a pause; raises the error when it keeps coming back."""
        self._failures += 1
        if self._failures >= _MAX_ATTEMPTS:
            raise error
        self._observe(Waiting("retrying", error.message, {"attempt": self._failures, "where": error.where}))
        self.job.suspend()
        self.stop.wait(_FIRST_PAUSE_S * 2**self._failures)
        self._restore()

    def _explain_missing_model(self) -> None:
        if self.job.state.ready:
            return
        complete, needed = len(self.job.state.warm_up.rows), self.settings.model.n_segments
        customers, unknown = self.job.unknown_features()
        message = (
            f"the input ended before there was a model: {complete:,} of {customers:,} customers have all features, and at "
            f"least {needed} that differ are needed for {needed} segments"
        )
        if unknown:
            message += f"; no event had: {', '.join(unknown)}"
        self._observe(Waiting("no_model", message, {"customers": complete, "segments": needed, "unknown": unknown}))

    def _observe(self, event: Observation) -> None:
        self.observer.observe(event)

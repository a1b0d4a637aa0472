"""A job over the past: all of it in memory, nothing published, nothing kept but its state and what it came to.

The job itself has no I/O, so a rehearsal is a few lines: each plan's model records are applied at once, its customers'
deltas too, and the rest of it is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from streamseg.core.customers.table import NO_SEGMENT
from streamseg.core.model.assignment import Quality
from streamseg.core.model.records import Start
from streamseg.engine.clock import Clock
from streamseg.engine.events import BatchCommitted
from streamseg.engine.job import Job
from streamseg.engine.pending_commit import Planned
from streamseg.engine.ports import CommitPlan, Log, Ownership, Polled, Records
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task, TaskState
from streamseg.formats.frames import entries


@dataclass
class Outcome:
    """What a rehearsal came to.

    Attributes:
        outcomes: events by what became of them; moves: changes from one segment to another, by reason.
        quality: of the tags of all events.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    quality: Quality = field(default_factory=Quality)

    def add(self, event: BatchCommitted) -> None:
        self.outcomes.update(event.outcomes)
        self.quality = self.quality.plus(event.quality)
        for (_, change, reason), n in event.assignments.items():
            self.moves[reason] += n if change == "moved" else 0


class Rehearsal:
    """One configuration's job over records that somebody feeds it."""

    def __init__(
        self,
        settings: JobSettings,
        clock: Clock,
        starts: dict[int, int],
        batch_records: int,
        warm_start: Start | None = None,
    ) -> None:
        """`starts`: by partition, the offset of its first record; `batch_records`: of a batch, at most."""
        self._ownership = Ownership(0, tuple(sorted(starts)))
        self.job = Job(settings, clock, len(starts))
        self.outcome = Outcome()
        self._log_end = 0
        self._batch_records = batch_records
        self._waiting = {partition: Records([], [], [], [], start) for partition, start in starts.items()}
        self._apply(self.job.plan_genesis(self._ownership, starts, warm_start))
        for partition, start in starts.items():
            task = Task(partition, settings.layout)
            task.begin(start)
            task.transition(TaskState.RESTORING)
            task.transition(TaskState.RUNNING)
            self.job.tasks[partition] = task

    def resume(self, next_offset: int) -> None:
        """Go on from a state of one partition that was put in place, whose input goes on at `next_offset`."""
        self._waiting = {0: Records([], [], [], [], next_offset)}
        self._log_end = self.job.replica.next_offset

    def feed(self, records: dict[int, Records], *, ended: bool = False) -> None:
        """More records, which are taken in batches as the loop would take them. `ended`: there are no more."""
        for partition, more in records.items():
            self._waiting[partition] = self._waiting[partition].followed_by(more)
        while True:
            self._settle()
            most = {p: min(n, self._batch_records) for p, n in self.job.until_step().items()}
            waiting = {p: each for p, each in self._waiting.items() if len(each.offsets)}
            if not waiting or (not ended and all(len(each.offsets) < most[p] for p, each in waiting.items())):
                break
            now, rest = self.job.cut(waiting, most)
            self._commit(self.job.plan_batch(Polled(now, self._ownership), drained=ended and not rest))
            self._waiting |= {p: rest.get(p, each.part(len(each.offsets), len(each.offsets))) for p, each in waiting.items()}
        if ended:
            self._finish()

    def _settle(self) -> None:
        """What the loop does at a step."""
        self._decide(input_ended=False)
        while (between := self.job.plan_between(self._ownership, idle=False)) is not None:
            self._commit(between)
            self._decide(input_ended=False)

    def _finish(self) -> None:
        """What the loop does of an input that has ended: sweeps, and a model of those who are there."""
        while True:
            self._settle()
            between = self.job.plan_between(self._ownership, idle=True, ended=True)
            if between is not None:
                self._commit(between)
                continue
            was_ready = self.job.state.ready
            self._decide(input_ended=True)
            if self.job.state.ready == was_ready:
                return

    def _decide(self, *, input_ended: bool) -> None:
        while (planned := self.job.plan_decision(self._ownership, input_ended=input_ended)) is not None:
            self._commit(planned)

    def _commit(self, planned: Planned) -> None:
        self.job.committed(planned)
        self._apply(planned.plan)
        if planned.observation is not None:
            event = planned.observation(())
            assert isinstance(event, BatchCommitted)
            self.outcome.add(event)

    def _apply(self, plan: CommitPlan) -> None:
        for log, _, records in plan.internal:
            if log is Log.MODEL:
                self._apply_entries(records)

    def _apply_entries(self, records: Iterable[bytes]) -> None:
        numbered = list(enumerate(records, self._log_end))
        self._log_end += len(numbered)
        for entry in entries(numbered, "model"):
            self.job.apply_model_entry(entry)


def segments_of(job: Job) -> dict[str, int]:
    """Each tagged customer's segment."""
    found: dict[str, int] = {}
    for task in job.tasks.values():
        segments = task.table.column("segment")
        found |= {name: int(segments[row]) for name, row in task.table.index.items() if segments[row] != NO_SEGMENT}
    return found


class Comparison(NamedTuple):
    """Two rehearsals' customers.

    Attributes:
        agreement: adjusted Rand index of the two partitions of customers: 1 the same, 0 as by chance.
        moves: (segment id in the first, in the second): customers.
    """

    agreement: float
    moves: Counter[tuple[int, int]]


def compared(first: Job, second: Job) -> Comparison:
    """Customers that both tagged."""
    from sklearn.metrics import adjusted_rand_score

    one, other = segments_of(first), segments_of(second)
    pairs = [(segment, other[name]) for name, segment in one.items() if name in other]
    agreement = adjusted_rand_score(*zip(*pairs, strict=True)) if pairs else 0.0
    return Comparison(float(agreement), Counter(pairs))

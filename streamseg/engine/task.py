"""A task: one partition's customers, and where it stands.

::

    CREATED -> RESTORING -> RUNNING -> COMMITTING -> RUNNING
                                           |
    any but CLOSED -> CLOSED <- SUSPENDED <+  (outcome unknown, or fenced: state is restored before it runs again)
"""

from __future__ import annotations

from enum import Enum

from streamseg.core.customers.feature_layout import Layout
from streamseg.core.customers.seen import Seen, SeenChange
from streamseg.core.customers.table import CustomerTable
from streamseg.engine.log_records import CustomerDelta, CustomerEntry, KeptCustomers, Mark, OffsetMetadata, SnapshotHead
from streamseg.errors import CorruptedError, TruncatedError


class TaskState(Enum):
    CREATED = "created"
    RESTORING = "restoring"
    RUNNING = "running"
    COMMITTING = "committing"
    SUSPENDED = "suspended"
    CLOSED = "closed"


LEGAL: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.RESTORING, TaskState.CLOSED}),
    TaskState.RESTORING: frozenset({TaskState.RUNNING, TaskState.SUSPENDED, TaskState.CLOSED}),
    TaskState.RUNNING: frozenset({TaskState.COMMITTING, TaskState.SUSPENDED, TaskState.CLOSED}),
    TaskState.COMMITTING: frozenset({TaskState.RUNNING, TaskState.SUSPENDED, TaskState.CLOSED}),
    TaskState.SUSPENDED: frozenset({TaskState.RESTORING, TaskState.CLOSED}),
    TaskState.CLOSED: frozenset(),
}


class IllegalTransitionError(RuntimeError):
    """A defect of the program: a task was moved where it may not go."""


class Task:
    """The customers of one partition and the mark of its last commit.

    Attributes:
        delta_bytes: of the customer log since the last snapshot; snapshot_bytes: of that snapshot.
        snapshots: the kept snapshots of the customer log, oldest first; announced: those that committed metadata names.
        seen: event ids of late, where the input is deduplicated.
    """

    def __init__(self, partition: int, layout: Layout) -> None:
        self.partition = partition
        self.layout = layout
        self.state = TaskState.CREATED
        self.table = CustomerTable(layout)
        self.seen = Seen()
        self.mark = Mark()
        self.delta_bytes = 0
        self.snapshot_bytes = 0
        self.snapshots: tuple[KeptCustomers, ...] = ()
        self.announced: tuple[KeptCustomers, ...] = ()
        self._expected = 0

    def transition(self, to: TaskState) -> None:
        """Raises IllegalTransitionError."""
        if to not in LEGAL[self.state]:
            raise IllegalTransitionError(f"task of partition {self.partition}: {self.state.value} -> {to.value}")
        self.state = to

    def begin(self, offset: int) -> None:
        """Where the partition begins if nothing of it was committed yet."""
        if not self.mark.seq:
            self.mark = Mark(next=offset)

    @property
    def metadata(self) -> OffsetMetadata:
        """What is committed with the offset that `mark` has reached."""
        return OffsetMetadata(self.mark.seq, self.snapshots)

    def apply(self, entry: CustomerEntry, size: int, offset: int = -1) -> None:
        """Apply one entry of the customer log, own or restored: the same way. Raises CorruptedError.

        `offset`: of a restored entry's first record.
        """
        if isinstance(entry, CustomerDelta):
            if not self.mark.seq and entry.mark.seq > 1:
                raise self.truncated(entry.mark.seq)
            if entry.mark.seq != self.mark.seq + 1:
                raise self._corrupted(f"commit {self.mark.seq + 1} is missing, {entry.mark.seq} follows")
            self.table.apply(entry.change)
            self.seen.apply(entry.seen, entry.mark.ids_since)
            self.delta_bytes += size
            self.mark = entry.mark
        elif isinstance(entry, SnapshotHead):
            self.keep_snapshot(offset, entry.mark, entry.model_version)
            self.table, self.seen = CustomerTable(self.layout), Seen()
            self.delta_bytes, self.snapshot_bytes = 0, size
            self._expected = entry.n_customers
            self._n_rows = entry.n_rows
        else:
            if entry.rows is not None:
                self.table.put(entry.rows)
            if entry.seen is not None:
                self.seen.apply(SeenChange(entry.seen, entry.seen.times[:0]), self.mark.ids_since)
            self.snapshot_bytes += size

    def snapshot_complete(self) -> None:
        """All rows of a snapshot were applied. Raises CorruptedError where their number is wrong."""
        if self.table.n_customers != self._expected:
            raise self._corrupted(f"a snapshot of {self._expected} customers holds {self.table.n_customers}")
        self.table.extend(self._n_rows)

    def snapshot_written(self, offset: int, size: int, mark: Mark, model_version: int) -> None:
        """The table was written as a snapshot at `offset` of the customer log."""
        self.keep_snapshot(offset, mark, model_version)
        self.delta_bytes, self.snapshot_bytes = 0, size

    def keep_snapshot(self, offset: int, mark: Mark, model_version: int) -> None:
        """A snapshot stands at `offset`. One before it is kept for `verify`, but after an erasure none."""
        if not any(kept.offset == offset for kept in self.snapshots):
            kept = KeptCustomers(offset, model_version, mark.next)
            self.snapshots = (kept, kept) if self.mark.erased else (*self.snapshots[-1:], kept)
        self.mark = mark

    def truncated(self, seq: int) -> TruncatedError:
        return TruncatedError(
            f"the customer log begins with commit {seq}, and no snapshot stands before it",
            where=f"partition {self.partition}",
            hint="if a job runs that has just truncated it: try again. Else restore the state from a backup",
        )

    def _corrupted(self, why: str) -> CorruptedError:
        return CorruptedError(
            f"the customer log is damaged: {why}",
            where=f"partition {self.partition}",
            hint="restore the state from a backup, or start a new state from the input",
        )

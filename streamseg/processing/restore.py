"""From logs to state: the one replay that stands behind restore, `verify`, `explain` and `segments`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamseg.errors import CorruptedError
from streamseg.processing.clock import Clock
from streamseg.processing.job import Job
from streamseg.processing.logs import (
    CustomerDelta,
    Genesis,
    OffsetMetadata,
    decode_customer_entry,
    decode_model_record,
    decode_model_snapshot,
)
from streamseg.processing.planned import KeptSnapshot
from streamseg.processing.settings import JobSettings
from streamseg.processing.task import Task, TaskState
from streamseg.processing.transport import Committed, Log, LogReader
from streamseg.records.frames import Entry, entries


def restore(reader: LogReader, settings: JobSettings, clock: Clock, partitions: Iterable[int]) -> Job:
    """A job as it was after its last commit.

    Raises ConfigError where the logs belong to other settings, CorruptedError where they are damaged or disagree.
    """
    job = Job(settings, clock, reader.n_partitions)
    restore_model(reader, job)
    committed = reader.committed()
    for partition in partitions:
        job.tasks[partition] = restore_task(reader, settings, partition, committed.get(partition))
    for task in job.tasks.values():
        if task.mark.model_version > job.state.version:
            raise CorruptedError(
                f"tags were made with model version {task.mark.model_version}, the model log ends at {job.state.version}",
                where=f"partition {task.partition}",
                hint="restore the state from a backup",
            )
    return job


def restore_model(reader: LogReader, job: Job, at_most: int | None = None) -> None:
    """The replica, from the newest snapshot (of a version up to `at_most`) and the log behind it."""
    newest = None
    for entry in entries(reader.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots"):
        snapshot = decode_model_snapshot(entry.payload)
        job.model_snapshots.append(KeptSnapshot(snapshot.version, entry.first, snapshot.next_offset))
        if at_most is None or snapshot.version <= at_most:
            newest = snapshot
    if newest is not None:
        job.replica.restore(newest)
    for entry in model_entries(reader, job.replica.next_offset):
        if at_most is not None and job.state.version >= at_most:
            break
        job.apply_model_entry(entry)


def find_genesis(reader: LogReader) -> Genesis | None:
    """What the model log was begun with; None where there is none yet."""
    for entry in entries(reader.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots"):
        return decode_model_snapshot(entry.payload).genesis
    for entry in model_entries(reader, 0):
        record = decode_model_record(entry.payload)
        return record if isinstance(record, Genesis) else None
    return None


def model_entries(reader: LogReader, start: int) -> Iterator[Entry]:
    return entries(reader.read(Log.MODEL, 0, start), "model")


def restore_task(reader: LogReader, settings: JobSettings, partition: int, committed: Committed | None) -> Task:
    """A partition's customers, up to what is committed and no further.

    The log decides where the committed offset has expired; where both are there and differ, something is wrong.
    """
    task = Task(partition, settings.layout)
    task.transition(TaskState.RESTORING)
    metadata = OffsetMetadata.decode(committed.metadata) if committed else OffsetMetadata()
    start = metadata.snapshots[-1].offset if metadata.snapshots else 0
    task.snapshots = task.announced = metadata.snapshots
    replay_customers(task, entries(reader.read(Log.CUSTOMERS, partition, start), f"customers-{partition}"))
    if committed is not None and (task.mark.seq, task.mark.next) != (metadata.seq, committed.next_offset):
        raise CorruptedError(
            f"the customer log ends at commit {task.mark.seq} (input offset {task.mark.next}), "
            f"but commit {metadata.seq} (input offset {committed.next_offset}) was made",
            where=f"partition {partition}",
            hint="restore the state from a backup",
        )
    task.transition(TaskState.RUNNING)
    return task


def replay_customers(task: Task, log: Iterable[Entry]) -> None:
    """Apply a customer log from an entry on. INOUT task."""
    for entry in log:
        value = decode_customer_entry(entry.payload)
        task.apply(value, len(entry.payload), entry.first)
        if entry.ends and not isinstance(value, CustomerDelta):
            task.snapshot_complete()

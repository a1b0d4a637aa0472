"""From logs to state: the one replay that stands behind restore, `verify`, `explain` and `segments`.

A commit is readable everywhere only a little after it was made, and not everywhere at once. So a restore never ends where a
log happens to end: it ends where `committed()` says, and waits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from streamseg.engine.clock import Clock
from streamseg.engine.job import Job
from streamseg.engine.log_records import (
    CustomerDelta,
    OffsetMetadata,
    decode_customer_entry,
    decode_model_snapshot,
)
from streamseg.engine.pending_commit import KeptSnapshot
from streamseg.engine.ports import Committed, Log, LogReader, TopicIds, check_same
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task, TaskState
from streamseg.errors import ConfigError, CorruptedError, TruncatedError
from streamseg.formats.frames import Entry, entries

# A restore waits 60 s for what is committed to be readable.
_WAITS = 120
_WAIT_S = 0.5
# How often a reader begins again that a running job has overtaken.
_ATTEMPTS = 20

T = TypeVar("T")


def retried(read: Callable[[], T]) -> T:
    """What is read of a job that runs: where it truncates its logs meanwhile, again, from what it kept."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(TruncatedError):
            return read()
    return read()


def restore(reader: LogReader, settings: JobSettings, clock: Clock, partitions: Iterable[int]) -> Job:
    """A job as it was after its last commit.

    Raises ConfigError where the logs belong to other settings, CorruptedError where they are damaged or disagree.
    """
    job = Job(settings, clock, reader.n_partitions)
    restore_model(reader, job)
    restore_tasks(reader, job, partitions)
    return job


# Told of a partition how many records of its log are left, about.
Progress = Callable[[int, int], None]


def _quiet(partition: int, remaining: int) -> None:
    pass


def restore_tasks(reader: LogReader, job: Job, partitions: Iterable[int], progress: Progress = _quiet) -> None:
    """Partitions' customers, and the model up to the versions of their tags. INOUT job. Raises as `restore`.

    A task that stands where the partition was committed is kept; one that does not has been elsewhere meanwhile.
    """
    committed = reader.committed()
    tasks = {}
    for partition in sorted(partitions):
        task, there = job.tasks.get(partition), committed.get(partition)
        if task is None or there is None or OffsetMetadata.decode(there.metadata).seq != task.mark.seq:
            tasks[partition] = restore_task(reader, job, partition, there, progress)
    for partition, task in tasks.items():
        if job.replica.positions.get(partition, 0) > task.mark.next:
            raise CorruptedError(
                f"the model log covers input up to offset {job.replica.positions[partition]}, but only {task.mark.next} is "
                "committed",
                where=f"partition {partition}",
                hint="was the group's offset reset? Delete the group's offsets, and the logs decide where to go on",
            )
    version = max((task.mark.model_version for task in tasks.values()), default=0)
    for _ in range(_WAITS):
        if job.state.version >= version:
            break
        for entry in model_entries(reader, job.replica.next_offset, _WAIT_S):
            job.apply_model_entry(entry)
    if job.state.version < version:
        raise CorruptedError(
            f"tags were made with model version {version}, the model log ends at {job.state.version}",
            where=f"partitions {sorted(tasks)}",
            hint="restore the state from a backup",
        )
    for partition in tasks.keys() & job.tasks.keys():
        job.tasks[partition].transition(TaskState.CLOSED)
    job.tasks |= tasks


def restore_model(reader: LogReader, job: Job, at_most: int | None = None) -> None:
    """The replica, from the newest snapshot (of a version up to `at_most`) and the log behind it."""
    newest = None
    for entry in entries(reader.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots"):
        snapshot = decode_model_snapshot(entry.payload)
        job.model_snapshots.append(KeptSnapshot(snapshot.version, snapshot.next_offset, entry.first))
        if at_most is None or snapshot.version <= at_most:
            newest = max(newest or snapshot, snapshot, key=lambda one: (one.version, one.next_offset))
    job.model_snapshots.sort()
    if newest is not None:
        job.replica.restore(newest)
    for entry in model_entries(reader, job.replica.next_offset):
        if at_most is not None and job.state.version >= at_most:
            break
        job.apply_model_entry(entry)
    genesis = job.replica.genesis
    if genesis is not None:
        check_same(TopicIds(genesis.input_id, genesis.topic_ids), reader.topic_ids(), job.settings.topic)


def note_snapshots(job: Job, found: Iterable[Entry]) -> set[int]:
    """Take note of model snapshots that other workers wrote. INOUT job. Returns the offsets of all that can be read."""
    known, readable = {kept.offset for kept in job.model_snapshots}, set()
    for entry in found:
        readable.add(entry.first)
        if entry.first not in known:
            snapshot = decode_model_snapshot(entry.payload)
            job.model_snapshots.append(KeptSnapshot(snapshot.version, snapshot.next_offset, entry.first))
    job.model_snapshots.sort()
    return readable


def model_entries(reader: LogReader, start: int, wait_s: float = 0.0) -> Iterator[Entry]:
    return entries(reader.read(Log.MODEL, 0, start, wait_s), "model")


def restore_task(
    reader: LogReader, job: Job, partition: int, committed: Committed | None, progress: Progress = _quiet
) -> Task:
    """A partition's customers, up to what is committed and no further.

    The log decides where the committed offset has expired; where both are there and differ, something is wrong.
    """
    task = Task(partition, job.settings.layout)
    if job.replica.genesis is not None:
        task.begin(job.replica.genesis.starts.get(partition, 0))
    task.transition(TaskState.RESTORING)
    metadata = OffsetMetadata.decode(committed.metadata) if committed else OffsetMetadata()
    if committed is not None and not metadata.seq:
        raise ConfigError(
            f"the committed offset {committed.next_offset} was not set by this application",
            where=f"partition {partition}",
            hint="was the group's offset reset? Delete the group's offsets, and the logs decide where to go on; to begin "
            "elsewhere in the input, start another application",
        )
    task.snapshots = task.announced = metadata.snapshots
    position = metadata.snapshots[-1].offset if metadata.snapshots else 0
    end = reader.end(Log.CUSTOMERS, partition)
    progress(partition, end - position)
    for i in range(_WAITS):
        log = reader.read(Log.CUSTOMERS, partition, position, _WAIT_S if i else 0.0)
        found = _told(entries(log, f"customers-{partition}"), lambda at: progress(partition, max(0, end - at)))
        position = replay_customers(task, found, metadata.seq or None) or position
        if task.mark.seq >= metadata.seq:
            break
    if metadata.seq and task.mark.seq > metadata.seq:
        # Its owner has gone on, and truncated it, since we asked.
        raise task.truncated(task.mark.seq)
    if committed is not None and (task.mark.seq, task.mark.next) != (metadata.seq, committed.next_offset):
        raise CorruptedError(
            f"the customer log ends at commit {task.mark.seq} (input offset {task.mark.next}), "
            f"but commit {metadata.seq} (input offset {committed.next_offset}) was made",
            where=f"partition {partition}",
            hint="restore the state from a backup",
        )
    task.transition(TaskState.RUNNING)
    progress(partition, 0)
    return task


def _told(log: Iterable[Entry], passed: Callable[[int], None]) -> Iterator[Entry]:
    for entry in log:
        yield entry
        passed(entry.end)


def replay_customers(task: Task, log: Iterable[Entry], last_seq: int | None) -> int:
    """Apply a customer log from an entry on, to its end or to commit `last_seq`. INOUT task. Returns where it goes on."""
    position = 0
    for entry in log:
        value = decode_customer_entry(entry.payload)
        task.apply(value, len(entry.payload), entry.first)
        position = entry.end
        if entry.ends and not isinstance(value, CustomerDelta):
            task.snapshot_complete()
        if entry.ends and task.mark.seq == last_seq:
            break
    return position

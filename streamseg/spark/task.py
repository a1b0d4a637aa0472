"""A task of Spark: a worker for one partition's records of one turn.

It has the model as of before the turn, which came with the task, and the partition's customers, which it keeps from turn to
turn or reads back from the checkpoint. What it makes is a function of these, of the records and of the micro-batch's clock,
which Spark keeps: a task that runs again makes the same.
"""

from __future__ import annotations

import pickle
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from streamseg.config import Config
from streamseg.config.build import connection_of, names_of, opening_of, schemas_of
from streamseg.engine.events import BatchCommitted, Observation
from streamseg.engine.job import Job
from streamseg.engine.log_records import Mark, OffsetMetadata, decode_model_snapshot
from streamseg.engine.pending_commit import Planned
from streamseg.engine.ports import (
    NO_TOPIC_IDS,
    CommitPlan,
    CommitResult,
    Committed,
    Log,
    Outcome,
    Ownership,
    Polled,
    Records,
)
from streamseg.engine.restore import restore_task
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task
from streamseg.engine.window import latest_customers
from streamseg.spark.publishing import Publisher
from streamseg.spark.reader import StoredModel
from streamseg.spark.store import Head, Part, Store, snapshot_in
from streamseg.transports.kafka.client import KafkaProducer, TopicPartition
from streamseg.transports.kafka.outputs import Message, messages_of, send_outputs
from streamseg.transports.kafka.topics import Names

# What a task returns, as rows: `part` says what became of a partition, the others are records for Spark's own sink.
SCHEMA = (
    "part binary, topic string, partition int, key binary, value binary, headers array<struct<key: string, value: binary>>"
)
_HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
_ARROW = pa.schema(
    [("part", pa.binary()), ("topic", pa.string()), ("partition", pa.int32()), ("key", pa.binary()), ("value", pa.binary()),
     ("headers", _HEADERS)]
)  # fmt: skip
# Slices of a sweep in one turn: each is a record of the model log.
_MOST_SLICES = 8
_MOST_TIMES = 1_000


@dataclass(frozen=True)
class Turn:
    """What a task is told, beside its records.

    Attributes:
        head: of before the turn; number: of the turn; clock_us: of the micro-batch, where records do not bring it.
        transactions: whether it publishes by itself, or leaves that to Spark's own sink.
        window: how many of the customers who were there last are wanted, for drift.
        fault: is called at named points of a task, for tests that pull cables.
    """

    root: str
    config: Config
    head: Head
    number: int
    transactions: bool
    window: int
    clock_us: int = 0
    fault: Callable[[str, int], None] = lambda point, turn: None


class Told(NamedTuple):
    """What the driver is told of a partition, beside what is in the checkpoint."""

    partition: int
    clock_us: int
    observations: list[Observation]
    window: tuple[Any, Any] | None


class At:
    """A clock that stands."""

    def __init__(self, us: int) -> None:
        self._us = us

    def now_us(self) -> int:
        return self._us


# Of a Python worker, which Spark uses for one task after the other: customers as the last turn left them, by checkpoint and
# partition; and settings, by what they were made of.
_tasks: dict[tuple[str, bytes, int], Task] = {}
_settings: dict[tuple[bytes, str], JobSettings] = {}


def settings_of(config: Config) -> JobSettings:
    known = (b"", config.model_dump_json())
    return _settings.get(known) or _settings.setdefault(known, config.job_settings())


def work_on_records(batches: Iterable[pa.RecordBatch], *, turn: Turn) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow`: the records of one partition of the input in their order, or of several one after the other."""
    discard_zip_importers()
    tables = [batch for batch in batches if batch.num_rows]
    if not tables:
        return
    table = pa.Table.from_batches(tables)
    for partition in np.unique(table["partition"].to_numpy()).tolist():
        here = table.filter(pa.compute.equal(table["partition"], partition))
        records = records_of(here, turn)
        if len(records.offsets):
            yield Work(turn, partition, here["clock_us"][0].as_py()).on(records)


def work_on_silence(batches: Iterable[pa.RecordBatch], *, turn: Turn, partitions: list[int]) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow` over numbers: partitions without records, of which a sweep is under way or a snapshot due."""
    discard_zip_importers()
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield Work(turn, partitions[number], turn.clock_us).on(None)


def discard_zip_importers() -> None:
    """Spark calls `importlib.invalidate_caches` before each task, which reads the directory of each of its archives again.

    That takes .2 s of CPU. It concerns cached importers only; an import re-creates them.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def records_of(table: pa.Table, turn: Turn) -> Records:
    """Those that are not committed yet. Raises ValueError where Spark has mixed their order."""
    offsets = table["offset"].to_numpy()
    if not (offsets[1:] > offsets[:-1]).all():
        raise ValueError("records of a partition are not in their order: set neither minPartitions nor a repartition")
    committed = turn.head.committed.get(table["partition"][0].as_py())
    first = 0 if committed is None else int(np.searchsorted(offsets, committed[0]))
    table = table.slice(first)
    keys, values = table["key"].to_pylist(), table["value"].to_pylist()
    opening = opening_of(turn.config)
    if "headers" in table.column_names:
        headers = [[(one["key"], one["value"]) for one in each or ()] for each in table["headers"].to_pylist()]
        values = [opening.opened(*each) for each in zip(values, keys, headers, strict=True)]
    at = offsets[first:].tolist()
    return Records(at, keys, values, table["ts_ms"].to_pylist(), at[-1] + 1 if at else 0)


class Work:
    """One partition in one turn."""

    def __init__(self, turn: Turn, partition: int, clock_us: int) -> None:
        self.turn, self.partition, self.clock_us = turn, partition, clock_us
        self.settings, self.store = settings_of(turn.config), Store(turn.root)
        self.job = Job(self.settings, At(clock_us), turn.head.n_partitions)
        self.job.replica.restore(decode_model_snapshot(snapshot_in(turn.head)))
        self.ownership = Ownership(0, (partition,))
        self.part = Part([], [], (0, ""), [], (Mark(), 0), rest=False)
        self.plans: list[CommitPlan] = []
        self.observations: list[Observation] = []
        there = turn.head.committed.get(partition)
        self.before = None if there is None else Committed(*there)
        self._known = (turn.root, turn.head.id, partition)
        self.task = self._restored()
        self.job.tasks[partition] = self.task

    def _restored(self) -> Task:
        """The partition's customers: kept by this process where they are as was committed, else read back."""
        seq = 0 if self.before is None else OffsetMetadata.decode(self.before.metadata).seq
        kept = _tasks.pop(self._known, None)
        if kept is not None and (kept.mark.seq, kept.mark.next) == (seq, self.before.next_offset if self.before else -1):
            return kept
        return restore_task(StoredModel(self.store, self.turn.head, NO_TOPIC_IDS), self.job, self.partition, self.before)

    def on(self, records: Records | None) -> pa.RecordBatch:
        """Do it, see to it that it is kept and published, and say so. Raises StreamsegError."""
        if records is not None:
            self._take(records)
        self._sweep(0 if records is None else len(records.offsets))
        self._snapshot()
        mark = self.task.mark
        self.part.committed = (mark.next, self.task.metadata.encode())
        self.part.mark = mark, len(self.task.table)
        if self._kept_and_published():
            # Only now: a task that fails before leaves customers in no state that somebody goes on from.
            _tasks[self._known] = self.task
        told = Told(self.partition, self.clock_us, self.observations, self._window())
        messages = () if self.turn.transactions else (m for plan in self.plans for m in messages_of(self._names, plan))
        return _rows(self.partition, pickle.dumps(told), messages)

    def _take(self, records: Records) -> None:
        """At most as many as were there before: a young model is old within a few records, and few go without a tag."""
        job, n = self.job, len(records.offsets)
        if job.state.ready:
            n = min(n, max(self.settings.step_records, self.task.mark.accepted))
        else:
            wanted = self.settings.model.warm_up - len(job.state.warm_up.rows)
            n = min(n, max(self.settings.step_records, -(-wanted // job.n_partitions)))
        self.part.rest = n < len(records.offsets)
        records = records.part(0, n)
        job.schemas.fetch([records], schemas_of(self.turn.config))
        self._commit(job.plan_batch(Polled({self.partition: records}, self.ownership), drained=True), records)

    def _sweep(self, n: int) -> None:
        """Slices of a sweep, as many as steps in the records."""
        slices = min(_MOST_SLICES, -(-n // self.settings.step_records)) if n else _MOST_SLICES
        for _ in range(slices):
            between = self.job.plan_between(self.ownership, idle=True)
            if between is None:
                break
            self._commit(between, None)

    def _commit(self, planned: Planned, records: Records | None) -> None:
        for log, _, frames in planned.plan.internal:
            (self.part.customers if log is Log.CUSTOMERS else self.part.model).extend(frames)
        self.plans.append(planned.plan)
        self.job.committed(planned)
        if planned.observation is not None:
            event = planned.observation(self.job.segments())
            if records is not None and isinstance(event, BatchCommitted):
                event = with_times(event, self.partition, records)
            self.observations.append(event)

    def _snapshot(self) -> None:
        if not self.job.snapshots_due({}):
            return
        planned = self.job.plan_customer_snapshot(self.ownership, self.partition)
        first = self.store.offset(self.turn.number, len(self.part.customers))
        for _, _, frames in planned.plan.internal:
            self.part.customers.extend(frames)
        self.part.catalog = list(planned.plan.catalog)
        self.observations.append(self.job.customer_snapshot_written(planned, CommitResult(Outcome.COMMITTED, [first])))
        self.job.announced()

    def _kept_and_published(self) -> bool:
        """Into the checkpoint, then to the topics. False where that was done before: what was published stands."""
        partition, number = self.partition, self.turn.number
        if not self.turn.transactions:
            self.store.put_part(partition, number, self.part)
            return True
        names = names_of(self.turn.config)
        publisher = Publisher(
            connection_of(self.turn.config),
            self.settings.application,
            str(partition),
            TopicPartition(names.input, partition),
        )
        before = 0 if self.before is None else OffsetMetadata.decode(self.before.metadata).seq
        last = publisher.begin(before)
        if last == before:
            self.store.put_part(partition, number, self.part)
            self.turn.fault("kept", number)
            publisher.publish(self._send, Committed(*self.part.committed))
            self.turn.fault("committed", number)
            return True
        published = self.store.part_or_none(partition, number)
        if published is None or OffsetMetadata.decode(published.committed[1]).seq != last:
            raise publisher.refused(last, before)
        return False

    def _send(self, client: KafkaProducer) -> list[Any]:
        futures: list[Any] = []
        for plan in self.plans:
            send_outputs(client, self._names, plan, futures)
        return futures

    @property
    def _names(self) -> Names:
        return names_of(self.turn.config)

    def _window(self) -> tuple[Any, Any] | None:
        if not self.turn.window or not self.job.state.ready:
            return None
        share = -(-self.turn.window // self.turn.head.n_partitions)
        return latest_customers([self.task], self.settings.layout.n_weighted, share)


def _rows(partition: int, told: bytes, messages: Iterable[Message]) -> pa.RecordBatch:
    """What the driver is told, and the records that Spark's own sink is to write."""
    rows: list[tuple[Any, ...]] = [(told, None, partition, None, None, None)]
    rows += [(None, topic, place, key, value, headers) for topic, place, key, value, headers in messages]
    columns = [list(column) for column in zip(*rows, strict=True)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _ARROW, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_ARROW)


def with_times(event: BatchCommitted, partition: int, records: Records) -> BatchCommitted:
    """The event of a batch with a sample of the times at which its records were made."""
    every = max(1, len(records.offsets) // _MOST_TIMES)
    times = [time for time in records.timestamps_ms[::every] if time is not None]
    return replace(event, produced_ms={partition: np.array(times, dtype=np.float64)} if times else {})

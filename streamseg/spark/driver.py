"""The driver: it holds the model log. For each micro-batch it sends the model out, takes back what was learned, and decides.

A micro-batch is one turn, or several until there are first centers, so that few records go without a tag; then one for
partitions without records of which a sweep is under way. A turn that is in the checkpoint is not done again.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from streamseg.config import Config
from streamseg.config.build import connection_of, names_of
from streamseg.core.model.records import Start
from streamseg.core.model.reference import Reference
from streamseg.engine.events import BatchCommitted, Observation, Observer, Started
from streamseg.engine.job import Job
from streamseg.engine.log_records import Mark, OffsetMetadata, encode_entry
from streamseg.engine.ports import Committed, Log, Ownership, TopicIds
from streamseg.engine.restore import restore_model
from streamseg.engine.sweeps import next_sweep
from streamseg.engine.window import WINDOW
from streamseg.errors import ConfigError
from streamseg.formats.frames import entries
from streamseg.runtime.batch_report import DriftReports
from streamseg.spark.options import spark_options
from streamseg.spark.publishing import Publisher
from streamseg.spark.reader import StoredModel
from streamseg.spark.store import FORMAT_VERSION, Head, Store
from streamseg.spark.task import SCHEMA as _SCHEMA
from streamseg.spark.task import At, Told, Turn, work_on_records, work_on_silence
from streamseg.spark.topics import Topics
from streamseg.transports.kafka.client import KafkaProducer, TopicPartition
from streamseg.transports.kafka.outputs import send_catalog

BATCH_RECORDS = 100_000
_NOBODY = Ownership(0, ())
# Turns without records in a micro-batch; a sweep that is not done then goes on with the next one.
_MOST_SILENT = 32


class Quiet:
    """An observer that is told and says nothing."""

    def observe(self, event: Observation) -> None:
        pass


class Driver:
    """`foreachBatch(Driver(...))`. Spark Connect sends it to the server, so it opens nothing before the first batch."""

    def __init__(
        self,
        config: Config,
        root: str,
        *,
        transactions: bool = True,
        batch_records: int = BATCH_RECORDS,
        start: Start | None = None,
        reference: Reference | None = None,
        observer: Observer | None = None,
        fault: Callable[[str, int], None] = lambda point, turn: None,
    ) -> None:
        """`start`: of a warm start; `reference`: customers that drift is measured against.

        `fault` is called at named points of a turn, for tests that pull cables.
        """
        self.config, self.root, self.transactions, self._batch_records = config, root, transactions, batch_records
        self._start, self._reference, self._observer, self._fault = start, reference, observer or Quiet(), fault
        self._live: _Live | None = None

    def __call__(self, frame: Any, batch: int) -> None:
        """One micro-batch. Raises StreamsegError."""
        if self._live is None:
            self._live = _Live(self.config, self.root, self._start, self._reference, self._observer)
        live = self._live
        if not live.pending(batch):
            return
        # Several turns would read the records several times.
        frame = frame.persist() if live.young(self._batch_records) else frame
        try:
            while self._turn(frame, batch):
                pass
            for _ in range(_MOST_SILENT):
                silent = live.silent()
                if not silent:
                    break
                self._silence(frame, batch, silent)
            live.finish(batch)
        finally:
            frame.unpersist()

    def _turn(self, frame: Any, batch: int) -> bool:
        """Returns whether records are left for another turn."""
        assert self._live is not None
        turn = self._live.turn(self.transactions, self._fault)
        return self._taken(frame.mapInArrow(partial(work_on_records, turn=turn), _SCHEMA), batch)

    def _silence(self, frame: Any, batch: int, partitions: list[int]) -> None:
        assert self._live is not None
        numbers = frame.sparkSession.range(0, len(partitions), 1, len(partitions))
        work = partial(work_on_silence, turn=self._live.turn(self.transactions, self._fault), partitions=partitions)
        self._taken(numbers.mapInArrow(work, _SCHEMA), batch)

    def _taken(self, out: Any, batch: int) -> bool:
        assert self._live is not None
        number = self._live.head.turn + 1
        if not self.transactions:
            out = out.persist()
        try:
            rows = out.filter("part is not null").select("part").collect()
            self._fault("computed", number)
            if not self.transactions:
                kafka = out.filter("part is null").select("topic", "partition", "key", "value", "headers").write
                kafka.format("kafka").options(**spark_options(self.config)).option("includeHeaders", "true").save()
                self._fault("published", number)
        finally:
            if not self.transactions:
                out.unpersist()
        left = self._live.step([pickle.loads(bytes(row[0])) for row in rows], batch, self._fault)
        self._fault("stepped", number)
        return left

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_live": None}


class _Live:
    """The model log's job, as of the last turn."""

    def __init__(
        self, config: Config, root: str, start: Start | None, reference: Reference | None, observer: Observer
    ) -> None:
        self.config, self.observer, self.store = config, observer, Store(root)
        self.settings = dataclasses.replace(config.job_settings(), reference=reference)
        self.names = names_of(config)
        with_topics = Topics(connection_of(config), self.names)
        try:
            with_topics.prepare(create=config.kafka.create_topics, replication_factor=config.kafka.replication_factor)
            n_partitions, ids = with_topics.n_partitions, with_topics.topic_ids()
        finally:
            with_topics.close()
        head = self.store.head()
        self.versions = {turn: self.store.head_of(turn).version for turn in self.store.heads()}
        self.job = Job(self.settings, At(0), head.n_partitions if head else n_partitions)
        if head is None:
            head = self._begin(self.store.spark_begins(self.names.input), start, ids)
        else:
            restore_model(StoredModel(self.store, head, ids), self.job)
            if n_partitions != head.n_partitions:
                raise ConfigError(
                    f"the input has {n_partitions} partitions, the checkpoint was written for {head.n_partitions}",
                    where=f"topic {self.names.input}",
                    hint="start a new application with another --checkpoint from the input's beginning; no state was lost",
                )
        self.head = head
        self._drift = DriftReports(0.0)
        state = self.job.state
        positions = {p: there[0] for p, there in head.committed.items()}
        observer.observe(Started(self.settings.application, positions, state.version, 0, 0.0, self.job.segments()))

    def _begin(self, begins: dict[int, int], start: Start | None, ids: TopicIds) -> Head:
        """The genesis: turn 0, before any micro-batch."""
        plan = self.job.plan_genesis(_NOBODY, begins, start, ids)
        frames = [frame for _, _, records in plan.internal for frame in records]
        self._apply(frames, 0)
        self.head = Head(
            FORMAT_VERSION, os.urandom(8), 0, -1, True, 0, self.job.n_partitions, self.job.state.version, {}, 0, {}, []
        )  # fmt: skip
        self._publish_catalog(list(plan.catalog))
        self._put(self.head, frames)
        return self.head

    # -- Turns --------------------------------------------------------------------------------------------------------

    def pending(self, batch: int) -> bool:
        """Whether a micro-batch is not done yet. Raises ConfigError where it is not the one that follows."""
        done = self.head.batch if self.head.complete else self.head.batch - 1
        if batch > done + 1:
            raise ConfigError(
                f"Spark goes on with micro-batch {batch}, the segments' state ends with {done}",
                where=self.store.root,
                hint="Spark's part of the checkpoint and ours are not of one time: restore both from one backup",
            )
        return batch > done

    def young(self, n: int) -> bool:
        """Whether fewer than so many records were there: then a micro-batch is several turns, each as long as all before."""
        return sum(mark.accepted for mark, _ in self.head.marks.values()) < n

    def turn(self, transactions: bool, fault: Callable[[str, int], None]) -> Turn:
        window = WINDOW if self.job.state.ready else 0
        head = self.head
        return Turn(self.store.root, self.config, head, head.turn + 1, transactions, window, head.clock_us, fault)

    def silent(self) -> list[int]:
        """Partitions that need a turn without records: of which a sweep is under way, or that keep the log from its end."""
        head, metadata = self.head, {p: OffsetMetadata.decode(text) for p, (_, text) in self.head.committed.items()}
        behind = self.job.state.version - self.settings.snapshot_versions
        late = [p for p in range(head.n_partitions) if p in metadata and metadata[p].newest < behind]
        never = [p for p in range(head.n_partitions) if p not in metadata and behind >= 0]
        return sorted({p for p, there in head.marks.items() if self._sweeps(*there)} | {*late, *never})

    def _sweeps(self, mark: Mark, n_rows: int) -> bool:
        return next_sweep(mark, self.job.state, self.settings, n_rows).active

    def step(self, told: list[Told], batch: int, fault: Callable[[str, int], None]) -> bool:
        """Apply what partitions learned, in their order, and decide. Returns whether records are left."""
        number = self.head.turn + 1
        told = sorted(told, key=lambda one: one.partition)
        parts = {one.partition: self.store.part(one.partition, number) for one in told}
        clock_us = max((one.clock_us for one in told), default=self.head.clock_us)
        frames = [frame for part in parts.values() for frame in part.model]
        self._apply(frames, self.store.offset(number))
        catalog = [record for part in parts.values() for record in part.catalog]
        self.job.clock = At(clock_us)
        while (decision := self.job.decision(input_ended=False)) is not None:
            plan = self.job.plan_of(decision)
            more = [frame for log, _, records in plan.internal if log is Log.MODEL for frame in records]
            self._apply(more, self.store.offset(number, len(frames)))
            frames += more
            catalog += plan.catalog
        left = any(part.rest for part in parts.values())
        old = self.head
        self.head = msgspec.structs.replace(
            old, turn=number, batch=batch, complete=False, clock_us=clock_us,
            committed=old.committed | {p: part.committed for p, part in parts.items()},
            marks=old.marks | {p: part.mark for p, part in parts.items()},
        )  # fmt: skip
        self._publish_catalog(catalog)
        fault("cataloged", number)
        self._put(self.head, frames)
        self._observe(told)
        return left

    def finish(self, batch: int) -> None:
        """A micro-batch is done: what its turns made superfluous goes."""
        self.head = msgspec.structs.replace(self.head, batch=batch, complete=True)
        self.store.put_head(self.head)
        self.store.retain(self.head, self.versions)
        self.versions = {turn: self.versions[turn] for turn in self.store.heads() if turn in self.versions}

    def _put(self, head: Head, frames: list[bytes]) -> None:
        self.head = msgspec.structs.replace(
            head, version=self.job.state.version, snapshot=encode_entry(self.job.replica.snapshot())
        )
        self.versions[head.turn] = self.head.version
        self.store.put_turn(self.head, frames)

    def _apply(self, frames: Iterable[bytes], first: int) -> None:
        for entry in entries(enumerate(frames, first), "model"):
            event = self.job.apply_model_entry(entry)
            if event is not None:
                self.observer.observe(event)

    def _publish_catalog(self, catalog: list[tuple[bytes, bytes]]) -> None:
        """Once: the commit of the catalog's place has the number of the publication."""
        if not catalog:
            return
        before, seq = self.head.catalogs, self.head.catalogs + 1
        place = TopicPartition(self.names.catalog, 0)
        publisher = Publisher(connection_of(self.config), self.settings.application, "catalog", place)
        last = publisher.begin(before)
        if last not in (before, seq):
            raise publisher.refused(last, before)
        if last == before:
            position = Committed(seq, OffsetMetadata(seq).encode())

            def write(client: KafkaProducer) -> list[Any]:
                return send_catalog(client, self.names, catalog)

            publisher.publish(write, position)
        else:
            publisher.skip(seq)
        self.head = msgspec.structs.replace(self.head, catalogs=seq)

    def _observe(self, told: list[Told]) -> None:
        segments = self.job.segments()
        for one in told:
            for event in one.observations:
                if isinstance(event, BatchCommitted):
                    event = dataclasses.replace(event, segments=segments)
                self.observer.observe(event)
        windows = [one.window for one in told if one.window is not None]
        if windows:
            x, labels = np.concatenate([x for x, _ in windows], axis=1), np.concatenate([y for _, y in windows])
            for event in self._drift.due(self.job, now=False, window=(x, labels)):
                self.observer.observe(event)

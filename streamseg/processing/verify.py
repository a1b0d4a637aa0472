"""Prove from the logs that every tag follows from the input.

Starts from the oldest state that is kept, takes the manifests in log order, runs each batch again on the input that it
names, and compares everything with what stands there: tags, dead letters, catalog, customer deltas and snapshots, model
deltas, byte by byte. Memory holds one state, whatever the length of the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from streamseg.errors import CorruptedError, DifferenceError
from streamseg.model.codec import pack
from streamseg.processing.catalog import catalog_messages
from streamseg.processing.clock import Clock
from streamseg.processing.job import Job
from streamseg.processing.logs import (
    BatchRecord,
    CustomerDelta,
    OffsetMetadata,
    PartitionManifest,
    SnapshotHead,
    StartRecord,
    decode_customer_entry,
    decode_model_record,
)
from streamseg.processing.partition import PartitionJob, PartitionResult
from streamseg.processing.planned import snapshot_pieces
from streamseg.processing.restore import model_entries, restore_model
from streamseg.processing.settings import JobSettings
from streamseg.processing.task import Task, TaskState
from streamseg.processing.transport import Log, LogReader, Topic
from streamseg.records.frames import Entry, entries
from streamseg.records.outputs import dead_letter_line, decode_segment, tombstone_line


@dataclass
class Report:
    """What was proved, and from where on.

    Attributes:
        horizon: by partition, the input offset from which tags were re-derived; model_version: where that was.
        unread: what could not be compared, and why, in words; lost: some of it should have been there.
    """

    horizon: dict[int, int] = field(default_factory=dict)
    model_version: int = 0
    batches: int = 0
    records: int = 0
    tags: int = 0
    dead_letters: int = 0
    starts: int = 0
    unread: list[str] = field(default_factory=list)
    lost: bool = False


class Verifier:
    """One run of `verify`."""

    def __init__(self, reader: LogReader, settings: JobSettings, clock: Clock, progress: Callable[[Report], None]) -> None:
        self.reader, self.settings, self.progress = reader, settings, progress
        self.job = Job(settings, clock, reader.n_partitions)
        self.report = Report()
        self.lanes: dict[int, _Lane] = {}
        self.catalog: list[tuple[bytes, bytes]] = []

    def run(self) -> Report:
        """Raises DifferenceError at the first difference, CorruptedError where a log is damaged."""
        committed = self.reader.committed()
        for partition in range(self.reader.n_partitions):
            there = committed.get(partition)
            metadata = OffsetMetadata.decode(there.metadata) if there else OffsetMetadata()
            self.lanes[partition] = _Lane(self, partition, metadata)
        oldest = min(lane.from_version for lane in self.lanes.values())
        restore_model(self.reader, self.job, oldest)
        self.report.model_version = oldest
        self.report.horizon = {p: lane.task.mark.next for p, lane in self.lanes.items()}
        self.job.tasks = {p: lane.task for p, lane in self.lanes.items()}
        self._pass_snapshots()
        for entry in model_entries(self.reader, self.job.replica.next_offset):
            self._entry(entry)
        for partition, lane in self.lanes.items():
            lane.finish(committed[partition].next_offset if partition in committed else 0)
        self._compare_catalog()
        return self.report

    def _entry(self, entry: Entry) -> None:
        record = decode_model_record(entry.payload)
        if isinstance(record, BatchRecord):
            self._batch(record, entry)
        self.job.apply_model_entry(entry)
        if isinstance(record, StartRecord):
            self.report.starts += 1
            self.catalog += catalog_messages(self.job.state, self.settings.model, record.clock_us)
        self._pass_snapshots()

    def _pass_snapshots(self) -> None:
        """Snapshots stand between batches: compare those that were taken at this version."""
        for lane in self.lanes.values():
            lane.pass_snapshots()

    def _batch(self, record: BatchRecord, entry: Entry) -> None:
        manifest = record.manifest
        results: dict[int, PartitionResult] = {}
        within = [part for part in manifest.partitions if self.job.state.version >= self.lanes[part.partition].from_version]
        for part in within:
            result = self.lanes[part.partition].rederive(part, manifest.clock_us)
            if result is not None:
                results[part.partition] = result
        if len(results) == len(manifest.partitions):
            again = pack(self.job.batch_record(results, manifest.clock_us))
            if again != entry.payload:
                raise DifferenceError(
                    "the model delta is not what its batch gives",
                    where=f"version {self.job.state.version + 1} of the model log, offset {entry.first}",
                )
            self.report.batches += 1
        for part in within:
            self.lanes[part.partition].follow(results.get(part.partition))
        self.progress(self.report)

    def _compare_catalog(self) -> None:
        published = self.reader.published(Topic.CATALOG, 0, 0)
        if published is None:
            self.report.unread.append("the catalog topic cannot be read")
            return
        there = [value for value in published if value is not None]
        expected = {value for _, value in self.catalog}
        missing = expected.difference(there)
        if missing:
            raise DifferenceError("a catalog record is missing, or not what the model says", where=_short(min(missing)))
        begun = max(lane.from_version for lane in self.lanes.values())
        for value in there:
            if value not in expected and decode_segment(value).model_version > begun:
                raise DifferenceError("there is a catalog record that no model gives", where=_short(value))


class _Lane:
    """One partition: its customers on the way, and what stands in its logs and outputs."""

    def __init__(self, verifier: Verifier, partition: int, metadata: OffsetMetadata) -> None:
        self.verifier, self.partition = verifier, partition
        self.report = verifier.report
        reader, settings = verifier.reader, verifier.settings
        start = metadata.snapshots[0] if len(metadata.snapshots) > 1 else None
        self.from_version = start.model_version if start else 0
        self.task = Task(partition, settings.layout)
        self.task.transition(TaskState.RESTORING)
        log = entries(reader.read(Log.CUSTOMERS, partition, start.offset if start else 0), f"customers-{partition}")
        self._log: Iterator[Entry] = log
        if start is not None:
            self._load_snapshot()
        self.task.transition(TaskState.RUNNING)
        self.tags = self._published(Topic.ASSIGNMENTS, self.task.mark.tags)
        self.letters = self._published(Topic.DEAD_LETTERS, self.task.mark.letters)

    def _published(self, topic: Topic, first: int) -> Iterator[bytes | None] | None:
        published = self.verifier.reader.published(topic, self.partition, first)
        if published is None:
            streamed = self.verifier.reader.streamed(topic, self.partition)
            why = "went to a stream" if streamed else "cannot be read any more"
            self.report.unread.append(f"{topic} of partition {self.partition} {why}")
            self.report.lost |= not streamed
        return published

    def _load_snapshot(self) -> None:
        for entry in self._log:
            self.task.apply(decode_customer_entry(entry.payload), len(entry.payload), entry.first)
            if entry.ends:
                self.task.snapshot_complete()
                return
        raise CorruptedError("the oldest kept snapshot of customers is not there", where=f"partition {self.partition}")

    def rederive(self, part: PartitionManifest, clock_us: int) -> PartitionResult | None:
        """Run a batch again and compare what it publishes. None where its input is gone."""
        verifier = self.verifier
        work = PartitionJob(self.task, verifier.job.state, verifier.settings, clock_us, part.horizon)
        if part.next == part.first:
            result = work.idle()
        else:
            records = verifier.reader.input_records(self.partition, part.first, part.next)
            if records is None:
                self._lost_input(part)
                return None
            result = work.process(records, verifier.job.decoder)
        found, said = result.manifest, part
        if found != said:
            fields = [name for name in said.__struct_fields__ if getattr(found, name) != getattr(said, name)]
            raise DifferenceError(
                f"the manifest says {fields[0]} = {getattr(said, fields[0])}, the input gives {getattr(found, fields[0])}",
                where=f"partition {self.partition}, input offsets {part.first} to {part.next}",
            )
        tagged = result.tags
        lines = [tombstone_line(i) if value is None else value for i, value in zip(tagged.ids, tagged.values, strict=True)]
        self._compare(self.tags, lines, tagged.values, "tag", part)
        letters = [dead_letter_line(letter) for letter in result.dead_letters]
        self._compare(self.letters, letters, letters, "dead letter", part)
        self.report.tags += len(lines) if self.tags is not None else 0
        self.report.dead_letters += len(letters) if self.letters is not None else 0
        self.report.records += part.records
        return result

    def _lost_input(self, part: PartitionManifest) -> None:
        gone = f"the input of partition {self.partition} "
        if not any(text.startswith(gone) for text in self.report.unread):
            self.report.unread.append(f"{gone}from offset {part.first} on is gone: its tags were not re-derived")
        self.report.lost = True
        for published, count in ((self.tags, part.tags), (self.letters, part.dead_letters)):
            for _ in range(count):
                next(published, None) if published is not None else None

    def _compare(
        self,
        published: Iterator[bytes | None] | None,
        lines: list[bytes],
        values: list[bytes | None] | list[bytes],
        what: str,
        part: PartitionManifest,
    ) -> None:
        """`lines` as in a file, `values` as in a topic."""
        if published is None:
            return
        for i, (line, value) in enumerate(zip(lines, values, strict=True)):
            there = next(published, _NOTHING)
            if there != line and there != value:
                raise DifferenceError(
                    f"a {what} is missing" if there is _NOTHING else f"a {what} is not what its event gives",
                    where=f"partition {self.partition}, {what} {i} of input offsets {part.first} to {part.next}; "
                    f"expected {_short(line)}, found {_short(there)}",
                )

    def follow(self, result: PartitionResult | None) -> None:
        """Apply the batch's entry of the customer log, having compared it with the batch."""
        entry = next(self._log, None)
        if entry is None:
            raise DifferenceError(
                "the customer log ends before the model log",
                where=f"partition {self.partition}, commit {self.task.mark.seq + 1}",
            )
        if result is not None and pack(result.delta) != entry.payload:
            raise DifferenceError(
                "the customers' delta is not what its batch gives",
                where=f"customer log of partition {self.partition}, offset {entry.first}",
            )
        self.task.apply(decode_customer_entry(entry.payload), len(entry.payload))

    def pass_snapshots(self) -> None:
        """Compare snapshots that come next in the log with the customers as they are."""
        while (entry := next(self._log, None)) is not None:
            value = decode_customer_entry(entry.payload)
            later = isinstance(value, SnapshotHead) and value.model_version > self.verifier.job.state.version
            if isinstance(value, CustomerDelta) or later:
                self._log = chain([entry], self._log)
                return
            assert isinstance(value, SnapshotHead)
            self._pass_snapshot(value, entry)

    def _pass_snapshot(self, head: SnapshotHead, entry: Entry) -> None:
        written: list[int] = []
        for piece in snapshot_pieces(self.task, head.mark, head.clock_us, head.model_version, written):
            if entry is None or piece != entry.payload:
                raise DifferenceError(
                    "a snapshot is not what its customers are", where=f"customer log of partition {self.partition}"
                )
            entry = entry if entry.ends else next(self._log)
        self.task.snapshot_written(0, sum(written), head.mark, head.model_version)
        job = self.verifier.job
        if job.state.ready:
            self.verifier.catalog += catalog_messages(job.state, self.verifier.settings.model, head.clock_us)

    def finish(self, committed: int) -> None:
        """Nothing may be left over."""
        entry = next(self._log, None)
        if entry is not None:
            raise DifferenceError(
                "the customer log goes on where the model log has no manifest",
                where=f"partition {self.partition}, offset {entry.first}",
            )
        if self.task.mark.next != committed:
            raise DifferenceError(
                f"the committed input offset is {committed}, the manifests end at {self.task.mark.next}",
                where=f"partition {self.partition}",
            )
        for what, published in (("tag", self.tags), ("dead letter", self.letters)):
            more = next(published, _NOTHING) if published is not None else _NOTHING
            if more is not _NOTHING:
                raise DifferenceError(
                    f"there is a {what} that no batch gives", where=f"partition {self.partition}, at the end: {_short(more)}"
                )


_NOTHING = b"\0nothing"


def _short(value: bytes | None) -> str:
    return "null" if value is None else "nothing" if value is _NOTHING else repr(value[:80].decode(errors="replace"))

"""One partition as `verify` goes through it: its customers on the way, compared with its logs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol

from streamseg.core.model.codec import pack
from streamseg.engine.catalog import catalog_messages
from streamseg.engine.job import Job
from streamseg.engine.log_records import (
    OffsetMetadata,
    PartitionManifest,
    SnapshotHead,
    SnapshotRows,
    decode_customer_entry,
)
from streamseg.engine.partition import PartitionJob, PartitionResult
from streamseg.engine.pending_commit import snapshot_pieces
from streamseg.engine.ports import Committed, Log, LogReader, Published, Topic
from streamseg.engine.quarantine import process
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task, TaskState
from streamseg.errors import CorruptedError, DifferenceError
from streamseg.formats.frames import Entry, entries
from streamseg.formats.outputs import dead_letter_line, tombstone_line

# What to do where an output is not what it was.
ANOTHER_WRITER = "somebody else wrote there, or changed it: restore it from a backup, or begin a new state and new outputs"


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
    decisions: int = 0
    unread: list[str] = field(default_factory=list)
    lost: bool = False


class Verifying(Protocol):
    """What a lane knows of the run that it is part of."""

    reader: LogReader
    settings: JobSettings
    report: Report
    job: Job
    catalog: list[tuple[bytes, bytes]]

    def at(self, version: int) -> Job | None:
        """The job as it was at a model version."""
        ...


class Lane:
    """One partition: its customers on the way, and what stands in its logs and outputs."""

    def __init__(self, verifier: Verifying, partition: int, committed: Committed | None) -> None:
        self.verifier, self.partition = verifier, partition
        metadata = OffsetMetadata.decode(committed.metadata) if committed else OffsetMetadata()
        self.report = verifier.report
        reader, settings = verifier.reader, verifier.settings
        self.end = committed.next_offset if committed else 0
        self.last_seq = metadata.seq if committed else _last_seq(reader, partition)
        start = metadata.snapshots[0] if len(metadata.snapshots) > 1 else None
        self.from_version = start.model_version if start else 0
        self.task = Task(partition, settings.layout)
        self.task.transition(TaskState.RESTORING)
        log = entries(reader.read(Log.CUSTOMERS, partition, start.offset if start else 0), f"customers-{partition}")
        self._log: Iterator[Entry] = log
        if start is not None:
            self._load_snapshot()
        else:
            self._find_beginning()
        self.task.transition(TaskState.RUNNING)
        self.tags = self._published(Topic.ASSIGNMENTS, self.task.mark.tags)
        self.letters = self._published(Topic.DEAD_LETTERS, self.task.mark.letters)

    def covers(self, seq: int) -> bool:
        """Whether a commit lies between the state that the lane began with and what was committed when `verify` began."""
        return self.task.mark.seq < seq <= self.last_seq

    def _published(self, topic: Topic, first: int) -> Published | None:
        published = self.verifier.reader.published(topic, self.partition, first)
        if published is None:
            streamed = self.verifier.reader.streamed(topic, self.partition)
            why = "went to a stream" if streamed else "cannot be read any more"
            self.report.unread.append(f"{topic} of partition {self.partition} {why}")
            self.report.lost |= not streamed
            return None
        if published.first > first:
            self.report.unread.append(
                f"{published.first - first:,} {topic} of partition {self.partition} are gone (expired or compacted)"
            )
        return published

    def _load_snapshot(self) -> None:
        for entry in self._log:
            self.task.apply(decode_customer_entry(entry.payload), len(entry.payload), entry.first)
            if entry.ends:
                self.task.snapshot_complete()
                return
        raise CorruptedError("the oldest kept snapshot of customers is not there", where=f"partition {self.partition}")

    def _find_beginning(self) -> None:
        """Raises TruncatedError where the log was truncated since the committed offsets were asked for."""
        entry = next(self._log, None)
        if entry is None:
            return
        value = decode_customer_entry(entry.payload)
        if isinstance(value, SnapshotHead | SnapshotRows) or value.mark.seq != 1:
            raise self.task.truncated(0 if isinstance(value, SnapshotRows) else value.mark.seq)
        self._log = chain([entry], self._log)

    def rederive(self, job: Job, part: PartitionManifest, clock_us: int) -> PartitionResult | None:
        """Run a batch again, with the model it was made with, and compare its outputs. None where its input is gone."""
        verifier = self.verifier
        make = partial(PartitionJob, self.task, job.state, verifier.settings, clock_us, ended=part.ended)
        if part.next == part.first:
            result = make().idle(sweeps=part.sweep is not None)
        else:
            records = verifier.reader.input_records(self.partition, part.first, part.next)
            if records is None or len(records.offsets) < part.records:
                # Expired, or compacted.
                self._lost_input(part)
                return None
            result = process(make, records, job.decoder)
        found, said = result.manifest, part
        if found != said:
            fields = [name for name in said.__struct_fields__ if getattr(found, name) != getattr(said, name)]
            raise DifferenceError(
                f"the manifest says {fields[0]} = {getattr(said, fields[0])}, the input gives {getattr(found, fields[0])}",
                where=f"partition {self.partition}, input offsets {part.first} to {part.next}",
                hint="the input is not what it was when it was read: put that back",
            )
        tagged = result.tags
        lines = [tombstone_line(i) if value is None else value for i, value in zip(tagged.ids, tagged.values, strict=True)]
        self.report.tags += self._compare(self.tags, part.tags_first, lines, tagged.values, "tag", part)
        letters = [dead_letter_line(letter) for letter in result.dead_letters]
        self.report.dead_letters += self._compare(self.letters, part.letters_first, letters, letters, "dead letter", part)
        self.report.records += part.records
        return result

    def _lost_input(self, part: PartitionManifest) -> None:
        gone = f"the input of partition {self.partition} "
        if not any(text.startswith(gone) for text in self.report.unread):
            self.report.unread.append(f"{gone}from offset {part.first} on is gone: its tags were not re-derived")
        self.report.lost = True
        for published, first, count in (
            (self.tags, part.tags_first, part.tags),
            (self.letters, part.letters_first, part.dead_letters),
        ):
            for i in range(first, first + count):
                if published is not None and i >= published.first:
                    next(published.values, None)

    def _compare(
        self,
        published: Published | None,
        first: int,
        lines: list[bytes],
        values: list[bytes | None] | list[bytes],
        what: str,
        part: PartitionManifest,
    ) -> int:
        """`lines` as in a file, `values` as in a topic; `first`: how many came before. Returns how many are the same."""
        if published is None:
            return 0
        compared = 0
        for i, (line, value) in enumerate(zip(lines, values, strict=True)):
            if first + i < published.first:
                continue
            compared += 1
            there = next(published.values, NOTHING)
            if there != line and there != value:
                raise DifferenceError(
                    f"a {what} is missing" if there is NOTHING else f"a {what} is not what its event gives",
                    where=f"partition {self.partition}, {what} {i} of input offsets {part.first} to {part.next}; "
                    f"expected {short(line)}, found {short(there)}",
                    hint=ANOTHER_WRITER,
                )
        return compared

    def follow(self, result: PartitionResult | None) -> None:
        """Apply the batch's entry of the customer log, having compared it with the batch."""
        entry = next(self._log, None)
        if entry is None:
            raise DifferenceError(
                "the customer log ends before the model log",
                where=f"partition {self.partition}, commit {self.task.mark.seq + 1}",
                hint="the customer log was cut off: restore it from a backup, or begin a new state",
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
            version = self.verifier.job.state.version
            if not isinstance(value, SnapshotHead) or value.model_version > version or not self.covers(value.mark.seq):
                self._log = chain([entry], self._log)
                return
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
        job = self.verifier.at(head.model_version)
        if job is None:
            self.report.unread.append(f"catalog records of model version {head.model_version} were not derived again")
        elif job.state.ready:
            self.verifier.catalog += catalog_messages(job.state, self.verifier.settings.model, head.clock_us)

    def finish(self, committed: Committed | None, *, quiet: bool) -> None:
        """Nothing may be left over; beyond what was committed at the beginning only if nothing has been committed since."""
        if self.task.mark.seq < self.last_seq:
            raise DifferenceError(
                f"commit {self.last_seq} was made, the model log has no manifest beyond commit {self.task.mark.seq}",
                where=f"partition {self.partition}",
            )
        if committed is not None and self.task.mark.next != committed.next_offset:
            raise DifferenceError(
                f"the committed input offset is {committed.next_offset}, the manifests end at {self.task.mark.next}",
                where=f"partition {self.partition}",
            )
        if not quiet:
            return
        entry = next(self._log, None)
        if entry is not None:
            raise DifferenceError(
                "the customer log goes on where the model log has no manifest",
                where=f"partition {self.partition}, offset {entry.first}",
            )
        for what, published in (("tag", self.tags), ("dead letter", self.letters)):
            more = next(published.values, NOTHING) if published is not None else NOTHING
            if more is not NOTHING:
                raise DifferenceError(
                    f"there is a {what} that no batch gives",
                    where=f"partition {self.partition}, at the end: {short(more)}",
                    hint=ANOTHER_WRITER,
                )


def _last_seq(reader: LogReader, partition: int) -> int:
    """The last commit in a customer log: committed offsets expire. 0 for none."""
    last = 0
    for entry in entries(reader.read(Log.CUSTOMERS, partition, 0), f"customers-{partition}"):
        value = decode_customer_entry(entry.payload)
        last = last if isinstance(value, SnapshotRows) else value.mark.seq
    return last


NOTHING = b"\0nothing"


def short(value: bytes | None) -> str:
    return "null" if value is None else "nothing" if value is NOTHING else repr(value[:80].decode(errors="replace"))

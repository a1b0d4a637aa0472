"""One partition's part of a micro-batch: records to tags, customers and rows to learn. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.customers.fold import Events, Fold, fold
from streamseg.core.customers.table import NO_SEGMENT, Retag, Rows, TableChange
from streamseg.core.model.assignment import Quality, Tags, kept_segment_of, quality_of, tag
from streamseg.core.model.external import Unnamed
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Ints
from streamseg.engine.duplicates import ids_since, without_duplicates
from streamseg.engine.erasures import found_erasures
from streamseg.engine.log_records import CustomerDelta, Mark, PartitionManifest, Sweep, customer_hash
from streamseg.engine.ports import Records, Tagged
from streamseg.engine.segment_trace import Holding, store_tags, tell_reasons, walk
from streamseg.engine.settings import JobSettings
from streamseg.engine.steps import closed_at
from streamseg.engine.sweeps import StoredCustomers, next_sweep
from streamseg.engine.tags import Subjects, assignments, counted, pick, sweep_subjects, transitions
from streamseg.engine.task import Task
from streamseg.engine.training_rows import Change, TableShare, ToWarmUp, losses_of, share_of, to_warm_up
from streamseg.engine.watermark import watermark
from streamseg.errors import RecordError
from streamseg.formats.events import Decoded, Decoder, Rejected
from streamseg.formats.outputs import DeadLetter

SWEEP_ROWS = 10_000
_NEWCOMER_SAMPLE = 16
_MAX_LETTER_BYTES = 1_000_000


class Quarantined(NamedTuple):
    """A record on which the program raised; `defect`: the exception's class and where it was raised."""

    at: int
    error: RecordError
    defect: str


@dataclass(frozen=True)
class PartitionResult:
    """Everything that a partition contributes to a commit plan.

    `customers`: by how many there are more; `defects`: records by what was raised on them; `first_s`: the first event time
    believed, of a partition's first events, in seconds; `held_back`: event times that were not.
    `erasures_found`: erasures whose customer was there.
    """

    tags: Tagged
    dead_letters: list[DeadLetter]
    delta: CustomerDelta
    manifest: PartitionManifest
    share: TableShare | None = None
    warm_up: ToWarmUp | None = None
    moved: Counter[int] = field(default_factory=Counter)
    customers: int = 0
    erased_ids: list[str] = field(default_factory=list)
    assignments: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    transitions: Counter[tuple[int, int]] = field(default_factory=Counter)
    unnamed: dict[int, Unnamed] = field(default_factory=dict)
    quality: Quality = field(default_factory=Quality)
    defects: Counter[str] = field(default_factory=Counter)
    first_s: float | None = None
    held_back: int = 0
    erasures_found: int = 0


class PartitionJob:
    """Processes one partition's share of one batch. Lives as long as the batch; reads the task, never changes it."""

    def __init__(self, task: Task, state: ModelState, settings: JobSettings, clock_us: int, *, ended: bool = False) -> None:
        self.task, self.state, self.settings, self.clock_us, self.ended = task, state, settings, clock_us, ended
        self.mark = task.mark
        self.sweep = next_sweep(self.mark, state, settings, len(task.table), ended=ended)
        self.stored = StoredCustomers(task.table, state, settings, self.sweep)
        self.assigned_at = max(clock_us, self.mark.assigned_at + 1)
        self.traces: dict[int, bytes] = {}
        self.tags = Tagged([], [], self.traces)
        self.moved: Counter[int] = Counter()
        self.assignments: Counter[tuple[int, str, str]] = Counter()
        self.transitions: Counter[tuple[int, int]] = Counter()
        self.changes: list[Change] = []
        self.losses = np.empty((3, 0))
        self.unnamed: dict[int, Unnamed] = {}
        self.found = np.empty(0, dtype=np.int64)
        self.quality = Quality()

    def idle(self, *, sweeps: bool) -> PartitionResult:
        """No records: a slice of the sweep under way, or nothing but the end of a step."""
        retag = self._slice() if sweeps else None
        empty = np.empty(0, dtype=np.int64)
        change = TableChange(Rows(empty, empty, [], self.task.table.empty_rows(0)), empty, retag)
        sweep = self.sweep if sweeps else self.mark.sweep
        if retag is not None:
            sweep = msgspec.structs.replace(sweep, cursor=retag.end, at=self.mark.accepted)
        mark = self._mark(sweep, self.mark.next, self.mark.clock_us, self.mark.last_us, 0, 0, 0)
        manifest = self._manifest(mark, 0, 0, 0, retag, 0, 0, [])
        return self._result([], CustomerDelta(mark, self.mark.next, change), manifest, None)

    def process(self, records: Records, decoder: Decoder, unusable: Sequence[Quarantined] = ()) -> PartitionResult:
        """A batch's records. IN all; `unusable` ones are dead letters already."""
        decoded, rejected = self._decode(records, decoder, unusable)
        n, n_decoded = len(records.offsets), len(decoded.ids)
        decoded, seen_ids = without_duplicates(self.task.seen, decoded, self.settings)
        events = Events(decoded.ids, decoded.times, decoded.erase, decoded.numbers, decoded.texts)
        folded = fold(self.task.table, events, self.sweep.as_of)
        self._tag_events(folded, decoded, _offsets(records)[decoded.at], records.traces)
        letters = [self._letter(records, reject) for reject in rejected]
        seen = watermark(self.mark, decoded.times[~decoded.erase], self.settings.model.max_ahead)
        n_complete, n_erased = int(np.count_nonzero(folded.complete)), int(np.count_nonzero(decoded.erase))
        mark = self._mark(
            self.sweep, records.next_offset, seen.clock_us, seen.last_us, len(letters), n_erased, len(decoded.ids)
        )
        change = folded.change()
        checksum = records.checksum
        newcomers = _sample(change.touched.new_ids)
        dropped, duplicates = n - n_decoded - len(letters), n_decoded - len(decoded.ids)
        manifest = self._manifest(
            mark, n, checksum, len(letters), None, n_complete, n_erased, newcomers, dropped, duplicates
        )
        if self.state.ready:
            self.changes.append(self.stored.of_events(folded))
        result = self._result(letters, CustomerDelta(mark, self.mark.next, change, seen_ids), manifest, folded)
        return replace(
            result,
            warm_up=to_warm_up(folded, decoded) if n_complete and self._still_counts_customers() else None,
            erased_ids=[decoded.ids[i] for i in np.flatnonzero(decoded.erase).tolist()],
            defects=Counter(record.defect for record in unusable),
            first_s=seen.first_s,
            held_back=seen.held_back,
        )

    def _decode(self, records: Records, decoder: Decoder, unusable: Sequence[Quarantined]) -> tuple[Decoded, list[Rejected]]:
        columns = (records.keys, records.values, records.timestamps_ms)
        if not unusable:
            return decoder.decode(*columns, self.clock_us)
        kept = np.setdiff1d(np.arange(len(records.offsets)), [record.at for record in unusable])
        places = kept.tolist()
        keys, values, timestamps = ([column[i] for i in places] for column in columns)
        decoded, rejected = decoder.decode(keys, values, timestamps, self.clock_us)
        rejected = [reject._replace(at=places[reject.at]) for reject in rejected]
        return decoded._replace(at=kept[decoded.at]), sorted(
            [*rejected, *(Rejected(one.at, one.error) for one in unusable)], key=attrgetter("at")
        )

    def _still_counts_customers(self) -> bool:
        """Whether rows of customers are wanted: for first centers, or to compare with later ones."""
        return not self.state.ready or (self.settings.model.watched and self.state.reference is None)

    def _slice(self) -> Retag | None:
        """Re-tag a slice of stored customers; None where no sweep is under way."""
        sweep, table = self.sweep, self.task.table
        if not sweep.active:
            return None
        end = min(sweep.cursor + SWEEP_ROWS, sweep.end)
        rows = np.arange(sweep.cursor, end)
        stale = (table.column("epoch")[rows] != sweep.epoch) & (table.column("time")[rows] > np.int64(NO_TIME))
        rows = rows[stale]
        epoch: Ints = table.column("epoch")[rows].astype(np.int64)
        x = table.vectors(rows, self.sweep.as_of)
        complete = ~np.isnan(x[: self.settings.layout.n_weighted]).any(axis=0)
        unseen = int(np.count_nonzero(~self.stored.seen(epoch)))
        rows, x, epoch = rows[complete], x[:, complete], epoch[complete]
        previous = table.column("segment")[rows].astype(np.int64)
        segment = kept_segment_of(self.state, self.settings.model, x, previous) if len(rows) else rows
        self.changes.append(self.stored.of_slice(rows, epoch, x, previous, segment, unseen))
        moved = segment != previous
        rows, x, segment, previous, epoch = rows[moved], x[:, moved], segment[moved], previous[moved], epoch[moved]
        watermark = max(self.mark.clock_us or 0, self.sweep.as_of)
        reasons = self.stored.reasons(rows, previous, epoch)
        retag = Retag(sweep.cursor, end, sweep.epoch, rows, segment, watermark, reasons)
        self._count_moves(previous, segment)
        if len(rows):
            ids = [str(table.ids[row]) for row in rows.tolist()]
            times: Ints = table.column("time")[rows].astype(np.int64)
            self._publish(sweep_subjects(self.state, self.settings, ids, x, previous, times, watermark, reasons), None)
        return retag

    def _tag_events(self, folded: Fold, decoded: Decoded, offsets: Ints, traces: Sequence[bytes | None] | None) -> None:
        state, spec = self.state, self.settings.model
        complete = np.flatnonzero(folded.complete)
        tags: Tags | None = None
        labels = np.full(len(folded.place), NO_SEGMENT, dtype=np.int64)
        everyone = len(complete) == len(labels)
        x = folded.x if everyone else folded.x[:, complete]
        if state.ready and len(complete):
            tags = tag(state, spec, x)
            labels[complete] = tags.segment_ids
        hold = Holding(state, spec, folded, complete, tags) if tags is not None and spec.stickiness > 0.0 else None
        out = walk(folded, labels, decoded.times, decoded.erase, hold)
        if tags is not None and hold is not None:
            tags = hold.holder.tags(x, tags, hold.places)
        if tags is not None:
            self.losses = losses_of(state, spec, tags.near.squared, self.mark.accepted + complete)
            self.quality = quality_of(tags)
            tell_reasons(out, folded, self.task.table, state, spec)
        store_tags(out, folded, decoded.times, decoded.erase, self.sweep.epoch if state.ready else -1)
        self._count_moves(folded.segment, folded.state["segment"].astype(np.int64))
        at = complete.tolist()
        subjects = Subjects(
            decoded.ids if everyone else [decoded.ids[i] for i in at],
            tags,
            x,
            out.previous[complete],
            out.changed[complete],
            out.entered_at[complete],
            out.reasons[complete],
            decoded.times[complete],
            self.task.partition,
            offsets[complete],
            decoded.event_ids if everyone or decoded.event_ids is None else [decoded.event_ids[i] for i in at],
            None if traces is None else [traces[i] for i in decoded.at[complete].tolist()],
        )
        self.found = found_erasures(decoded, self.task.table)
        self._publish(subjects, (complete, self.found, decoded.ids))

    def _publish(self, subjects: Subjects, events: tuple[Ints, Ints, Sequence[str]] | None) -> None:
        """Encode subjects; `events`: (place of each subject, places of erasures, ids) puts tombstones in between."""
        self.assignments += counted(subjects)
        self.transitions += transitions(subjects)
        self._note_unnamed(subjects.tags)
        if events is not None and self.settings.emit == "changes":
            changed = np.flatnonzero(subjects.changed)
            subjects, events = pick(subjects, changed), (events[0][changed], *events[1:])
        n_erased = len(events[1]) if events else 0
        assigned_at = self.assigned_at + np.arange(len(subjects.ids) + n_erased)
        self.assigned_at += len(assigned_at)
        if not n_erased or events is None:
            self._add(subjects.ids, assignments(subjects, assigned_at, self.state, self.settings), subjects.traces)
            return
        places, erasures, ids = events
        position = np.searchsorted(np.sort(np.concatenate([places, erasures])), places)
        values = iter(assignments(subjects, assigned_at[position], self.state, self.settings))
        traces = iter(subjects.traces or [None] * len(subjects.ids))
        gone = set(erasures.tolist())
        for place in np.sort(np.concatenate([places, erasures])).tolist():
            erased = place in gone
            self._add([ids[place]], [None if erased else next(values)], [None if erased else next(traces)])

    def _note_unnamed(self, tags: Tags | None) -> None:
        """Segments that only these tags know."""
        if tags is None or tags.state is self.state:
            return
        centers = tags.state.tagging.centers
        for i in range(len(self.state.segments), len(tags.state.segments)):
            mean, rows = centers.centers[:, i].tolist(), float(centers.weights[i])
            self.unnamed.setdefault(tags.state.segments[i].id, Unnamed(0, rows, mean))

    def _add(self, ids: Sequence[str], values: Sequence[bytes | None], traces: Sequence[bytes | None] | None = None) -> None:
        first = len(self.tags.ids)
        self.traces |= {first + i: trace for i, trace in enumerate(traces or ()) if trace is not None}
        self.tags.ids.extend(ids)
        self.tags.values.extend(values)

    def _count_moves(self, before: Ints, after: Ints) -> None:
        ids, places = np.unique(np.concatenate([before, after]), return_inverse=True)
        came, went = (np.bincount(p, minlength=len(ids)) for p in (places[len(before) :], places[: len(before)]))
        for segment, change in zip(ids.tolist(), (came - went).tolist(), strict=True):
            if change and segment != NO_SEGMENT:
                self.moved[segment] += change

    def _letter(self, records: Records, reject: Rejected) -> DeadLetter:
        error, at = reject.error, reject.at
        key, value = records.keys[at], records.values[at]
        if len(key or b"") + len(value or b"") > _MAX_LETTER_BYTES:
            # Together with the reason it would be too large for a record itself: it stands where it came from.
            key, value = None, None
        return DeadLetter(
            key,
            value,
            error.code.value,
            error.message,
            self.settings.topic,
            self.task.partition,
            records.offsets[at],
            error.field,
            records.timestamps_ms[at],
        )

    def _mark(
        self, sweep: Sweep, next_offset: int, clock_us: int | None, last_us: int, letters: int, erased: int, accepted: int
    ) -> Mark:
        mark = self.mark
        closed = closed_at(mark, mark.accepted + accepted, clock_us, self.state, self.settings)
        return Mark(
            seq=mark.seq + 1,
            next=next_offset,
            model_version=self.state.version,
            assigned_at=max(self.assigned_at - 1, mark.assigned_at),
            clock_us=clock_us,
            last_us=last_us,
            tags=mark.tags + len(self.tags.ids),
            letters=mark.letters + letters,
            sweep=sweep,
            batches=mark.batches + 1,
            erased=mark.erased + erased,
            accepted=mark.accepted + accepted,
            closed_at=closed,
            ids_since=mark.ids_since if closed == mark.closed_at else ids_since(mark, clock_us, self.settings),
        )

    def _manifest(
        self,
        mark: Mark,
        n_records: int,
        checksum: int,
        letters: int,
        retag: Retag | None,
        complete: int,
        erased: int,
        newcomers: list[int],
        dropped: int = 0,
        duplicates: int = 0,
    ) -> PartitionManifest:
        ready = self.state.ready
        return PartitionManifest(
            partition=self.task.partition,
            seq=mark.seq,
            first=self.mark.next,
            next=mark.next,
            records=n_records,
            checksum=checksum,
            dead_letters=letters,
            waiting=n_records - letters - erased - complete - dropped - duplicates,
            erased=erased,
            warming_up=0 if ready else complete,
            assigned=complete if ready else 0,
            tags_first=self.mark.tags,
            tags=len(self.tags.ids),
            letters_first=self.mark.letters,
            sweep=None if retag is None else (retag.first, retag.end, retag.epoch),
            last_assigned_at=mark.assigned_at,
            newcomers=newcomers,
            dropped=dropped,
            duplicates=duplicates,
            ended=self.ended,
        )

    def _result(
        self,
        letters: list[DeadLetter],
        delta: CustomerDelta,
        manifest: PartitionManifest,
        folded: Fold | None,
    ) -> PartitionResult:
        return PartitionResult(
            self.tags,
            letters,
            delta,
            manifest,
            share=self._share(folded),
            customers=len(delta.change.touched.new_rows) - len(delta.change.erased),
            moved=self.moved,
            assignments=self.assignments,
            transitions=self.transitions,
            unnamed=self.unnamed,
            quality=self.quality,
            erasures_found=len(self.found),
        )

    def _share(self, folded: Fold | None) -> TableShare | None:
        if not self.state.ready or not self.changes:
            return None
        every = np.empty((len(self.settings.model.features), 0))
        if folded is not None:
            every = folded.x if folded.complete.all() else folded.x[:, folded.complete]
        return share_of(self.state, self.settings.model, self.changes, self.losses, every)


def _offsets(records: Records) -> Ints:
    offsets = records.offsets
    if isinstance(offsets, range):
        return np.arange(offsets.start, offsets.stop)
    return np.array(offsets, dtype=np.int64)


def _sample(ids: list[str]) -> list[int]:
    """Hashes of 1/16 of the ids, the same ones everywhere."""
    return [customer_hash(name) for name in ids if not crc32(name.encode()) % _NEWCOMER_SAMPLE]

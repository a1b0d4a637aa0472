"""The embedded store: one SQLite file in WAL mode that holds partitions, offsets and internal logs.

One SQLite transaction is the commit. Files take part in it: a sink's bytes are written and synced first, then the
transaction commits the file's new length together with everything else. A crash in between leaves bytes behind the
committed length, which are cut off at the next start; so each line is there exactly once. Standard output cannot be cut:
its records wait in the store until they are committed and written, and are written again if a crash came between the two.

One process writes (`flock` keeps a second one out), any number read: each reader sees one consistent state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from streamseg.engine.ports import (
    CommitPlan,
    CommitResult,
    Committed,
    Log,
    Outcome,
    Ownership,
    Polled,
    Records,
    Tagged,
    Topic,
)
from streamseg.errors import ConfigError, FencedError, RetriableError
from streamseg.formats.outputs import DeadLetter, dead_letter_line, tombstone_line
from streamseg.transports import writer_lock
from streamseg.transports.at_rest import OWNER_ONLY
from streamseg.transports.files import LineStream, Source
from streamseg.transports.pending import Pending
from streamseg.transports.reader import INPUT, STREAM, EmbeddedReader, Reopenable
from streamseg.transports.rotation import RotatedFile
from streamseg.transports.sinks import FileSink, StreamSink
from streamseg.transports.sqlite import (
    close_cleanly,
    delete_below,
    log_name,
    note_rotation,
    open_for_writing,
    stored_records,
    translated,
)

# How long the end of a file that is followed is left alone.
_LOOK_AGAIN_S = 0.2


class Wiring(NamedTuple):
    """What the store's input and outputs are connected to; what is None is a topic inside the store.

    Attributes:
        source: a bounded file, or a stream of lines that the store keeps until its customers are in a snapshot.
        tags: a file's path, or a stream; mode: permissions of an output file that is made.
        follow: a file may grow: at its end more is waited for.
    """

    source: Source | LineStream | None = None
    tags: Path | StreamSink | None = None
    dead_letters: Path | None = None
    mode: int = OWNER_ONLY
    follow: bool = False


class EmbeddedTransport(EmbeddedReader):
    """The whole contract. In memory for tests: `path` ":memory:"."""

    def __init__(
        self,
        path: Path | str,
        *,
        n_partitions: int = 1,
        wiring: Wiring | None = None,
        reopen: Reopenable | None = None,
        fault: Callable[[str], None] = lambda point: None,
    ) -> None:
        """`fault` is called at named points of a commit, for tests that pull cables.

        Raises ConfigError where another process writes to the state, or the sinks cannot be used.
        """
        self.path = str(path)
        self._reopen = reopen
        self._fault = fault
        self.wiring = wiring or Wiring()
        self._lock = writer_lock.hold(Path(path)) if self.path != ":memory:" else None
        try:
            with translated(self.path):
                self._db = open_for_writing(self.path, n_partitions)
            self.n_partitions = int(self._meta("n_partitions"))
            if self.n_partitions != n_partitions:
                raise ConfigError(f"the state has {self.n_partitions} partitions, not {n_partitions}")
            self._generation = self._next_generation()
            self._polled = dict.fromkeys(range(self.n_partitions), 0)
            self._pending: Pending | None = None
            self._growth = threading.Event()
            self._sinks: dict[str, FileSink] = {}
            # By output file, bytes that a crash had left behind the committed ones.
            self.cut_off: dict[str, int] = {}
            if self.wiring.source is not None and not isinstance(self.wiring.source, LineStream):
                self.check(self.wiring.source)
            self._open_sinks()
            self._deliver()
        except BaseException:
            self.close()
            raise

    def _next_generation(self) -> int:
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            generation = int(self._db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0])
            self._db.execute("COMMIT")
        return generation

    def _open_sinks(self) -> None:
        paths = {Topic.ASSIGNMENTS: self.wiring.tags, Topic.DEAD_LETTERS: self.wiring.dead_letters}
        for topic, path in paths.items():
            if not isinstance(path, Path):
                continue
            self._sinks[topic] = FileSink(path, self._file_position(path), self.wiring.mode)
            self._sinks[topic].cut()
            self.cut_off[str(path)] = self._sinks[topic].surplus
            with translated(self.path):
                self._db.execute("INSERT OR IGNORE INTO files (path, position) VALUES (?, 0)", (self._key_of(path),))

    # -- Input --------------------------------------------------------------------------------------------------------

    def begins(self) -> dict[int, int]:
        return dict.fromkeys(range(self.n_partitions), 0)

    def ownership(self) -> Ownership:
        return Ownership(self._generation, tuple(range(self.n_partitions)))

    def seek(self, positions: Mapping[int, int]) -> None:
        self._polled.update(positions)
        self._pending = None
        for sink in self._sinks.values():
            # After an unknown outcome only the store knows what belongs to the file.
            sink.length = self._file_position(sink.path) or 0
            sink.cut()

    def _file_position(self, path: Path) -> int | None:
        with translated(self.path):
            row = self._db.execute("SELECT position FROM files WHERE path = ?", (self._key_of(path),)).fetchone()
        return None if row is None else int(row[0])

    def produce(self, partition: int, records: Iterable[tuple[bytes | None, bytes | None, int | None]]) -> None:
        """Append (key, value, timestamp in ms) to the input topic inside the store."""
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # Offsets that a file's records have taken in the meantime are not given again.
                name, taken = log_name(INPUT, partition), self.committed().get(partition, Committed(0, "")).next_offset
                self._db.execute("UPDATE logs SET next_offset = max(next_offset, ?) WHERE name = ?", (taken, name))
                self._append(name, records, taken)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def input_end(self, partition: int = 0) -> int:
        """Behind the last record of the input topic inside the store."""
        return self._end(log_name(INPUT, partition))

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        source = self.wiring.source
        partitions = self._poll_stored(max_records)
        if source is None or partitions:
            return Polled(partitions, self.ownership(), not partitions and not self.wiring.follow)
        if not isinstance(source, LineStream):
            polled = self._poll_file(source, max_records)
            if polled.partitions or not self.wiring.follow:
                return polled
            self._growth.wait(min(timeout_s, _LOOK_AGAIN_S))
            return polled._replace(ended=False)
        # All that was read is stored before any of it is processed: a stream cannot be read again.
        lines = source.take(max_records, timeout_s)
        if lines:
            self.produce(0, ((None, line, None) for line in lines))
        partitions = self._poll_stored(max_records)
        return Polled(partitions, self.ownership(), source.ended and not partitions)

    def lags(self) -> dict[int, int]:
        """Of a file nobody knows how many records it holds."""
        if self.wiring.source is not None and not isinstance(self.wiring.source, LineStream):
            return {}
        ends = {partition: self._end(log_name(INPUT, partition)) for partition in self._polled}
        return {partition: max(0, ends[partition] - position) for partition, position in self._polled.items()}

    def _poll_stored(self, max_records: int) -> dict[int, Records]:
        partitions = {}
        for partition, position in self._polled.items():
            with translated(self.path):
                records = stored_records(self._db, log_name(INPUT, partition), position, max_records, None)
            if records is not None and len(records.offsets):
                partitions[partition] = records
                self._polled[partition] = records.next_offset
        return partitions

    def _poll_file(self, source: Source, max_records: int) -> Polled:
        first = self._polled[0]
        position = self._pending.end if self._pending else self.position(source)
        read = source.read(position, max_records)
        if not read.values:
            if isinstance(source, RotatedFile) and source.was_rotated and self._pending is None:
                # It was read to its end: the one that is there now comes next.
                with translated(self.path):
                    note_rotation(self._db, self._key_of(source.path), source.name_of_old)
                source.begin_new()
            return Polled({}, self.ownership(), True)
        self._pending = Pending(first, read.values, position, read.position, read.open_row)
        self._polled[0] = self._pending.next
        return Polled({0: Records.of_values(read.values, first)}, self.ownership(), False)

    def position(self, source: Source) -> int:
        """How far a file was read by what is committed."""
        return self._file_position(source.path) or 0

    # -- Commit -------------------------------------------------------------------------------------------------------

    def commit(self, plan: CommitPlan) -> CommitResult:
        current = int(self._meta("generation"))
        if plan.ownership.generation != current:
            raise FencedError(
                "another process has taken over this state", where=self.path, hint="let one process write to a state"
            )
        try:
            self._fault("before_write")
            with translated(self.path):
                self._db.execute("BEGIN IMMEDIATE")
            first_offsets = self._write(plan)
            self._fault("before_sync")
            for sink in self._sinks.values():
                sink.sync()
            self._fault("before_commit")
        except BaseException:
            self._abort()
            raise
        return self._finish(plan, first_offsets)

    def _finish(self, plan: CommitPlan, first_offsets: list[int]) -> CommitResult:
        try:
            with translated(self.path):
                self._db.execute("COMMIT")
        except RetriableError:
            # The disk said no to the very commit: what became of it only the store knows.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return CommitResult(Outcome.UNKNOWN)
        for sink in self._sinks.values():
            sink.length = sink.written
        _, self._pending = self._split(plan)
        self._fault("after_commit")
        self._deliver()
        return CommitResult(Outcome.COMMITTED, first_offsets)

    def _abort(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        for sink in self._sinks.values():
            sink.cut()

    def _write(self, plan: CommitPlan) -> list[int]:
        for partition, letters in plan.dead_letters.items():
            self._publish_letters(partition, letters)
        for partition, tags in plan.assignments.items():
            self._publish_tags(partition, tags)
        self._append(log_name(Topic.CATALOG, 0), ((key, value, None) for key, value in plan.catalog))
        first_offsets = []
        for log, partition, records in plan.internal:
            first_offsets.append(self._append(log_name(log, partition), ((None, record, None) for record in records)))
        rows = [(partition, *offset) for partition, offset in plan.offsets.items()]
        with translated(self.path):
            self._db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)
        self._write_positions(plan)
        return first_offsets

    def _write_positions(self, plan: CommitPlan) -> None:
        done, _ = self._split(plan)
        source = self.wiring.source
        with translated(self.path):
            for sink in self._sinks.values():
                key = self._key_of(sink.path)
                self._db.execute("UPDATE files SET position = ? WHERE path = ?", (sink.written, key))
            if done is None or source is None or isinstance(source, LineStream):
                return
            key = self._key_of(source.path)
            row = (key, done.end, source.settle(None) or None, done.open_row)
            self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)
            checksum = Records.of_values(done.values, done.first).checksum
            place = (done.first, done.next, key, done.position, checksum)
            self._db.execute("INSERT OR REPLACE INTO read_from VALUES (?, ?, ?, ?, ?)", place)

    def _split(self, plan: CommitPlan) -> tuple[Pending | None, Pending | None]:
        """Of what was polled from a file, what a plan commits, and what is left."""
        source, pending = self.wiring.source, self._pending
        next_offset = plan.offsets.get(0, Committed(-1, "")).next_offset
        if pending is None or source is None or isinstance(source, LineStream):
            return None, pending
        if not pending.first < next_offset <= pending.next:
            return None, pending
        done, rest = pending.split(source, next_offset)
        return done, rest if rest.values else None

    def _publish_tags(self, partition: int, tags: Tagged) -> None:
        name = log_name(Topic.ASSIGNMENTS, partition)
        if self.wiring.tags is None:
            self._append(name, ((i.encode(), value, None) for i, value in zip(tags.ids, tags.values, strict=True)))
            return
        lines = [tombstone_line(i) if value is None else value for i, value in zip(tags.ids, tags.values, strict=True)]
        if isinstance(self.wiring.tags, StreamSink):
            with translated(self.path):
                self._db.executemany("INSERT INTO outbox (value) VALUES (?)", ((line,) for line in lines))
            self._note_path(name, self._count(name, len(lines)), STREAM, 0)
        else:
            self._append_lines(Topic.ASSIGNMENTS, name, lines)

    def _publish_letters(self, partition: int, letters: Sequence[DeadLetter]) -> None:
        name = log_name(Topic.DEAD_LETTERS, partition)
        if Topic.DEAD_LETTERS in self._sinks:
            self._append_lines(Topic.DEAD_LETTERS, name, [dead_letter_line(letter) for letter in letters])
        else:
            self._append(name, ((letter.key, dead_letter_line(letter), None) for letter in letters))

    def _append_lines(self, topic: Topic, name: str, lines: list[bytes]) -> None:
        sink = self._sinks[topic]
        self._note_path(name, self._count(name, len(lines)), self._key_of(sink.path), sink.written)
        sink.append(b"".join([line + b"\n" for line in lines]))

    def _note_path(self, name: str, first: int, path: str, position: int) -> None:
        """Where records from `first` on are, if that is another place than before."""
        with translated(self.path):
            query = "SELECT path FROM written_to WHERE topic = ? ORDER BY first_record DESC LIMIT 1"
            last = self._db.execute(query, (name,)).fetchone()
            if last is None or last[0] != path:
                self._db.execute("INSERT OR REPLACE INTO written_to VALUES (?, ?, ?, ?)", (name, first, path, position))

    def _count(self, name: str, n: int, at_least: int = 0) -> int:
        """Give the next n offsets of a log. Returns the first."""
        with translated(self.path):
            row = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
            first = max(row[0] if row else 0, at_least)
            self._db.execute(
                "INSERT INTO logs VALUES (?, 0, ?) ON CONFLICT (name) DO UPDATE SET next_offset = excluded.next_offset",
                (name, first + n),
            )
        return int(first)

    def _append(self, name: str, records: Iterable[tuple[bytes | None, bytes | None, int | None]], at_least: int = 0) -> int:
        """Append (key, value, timestamp) to a log inside the store. Returns the offset of the first."""
        with translated(self.path):
            self._db.execute(
                f'CREATE TABLE IF NOT EXISTS "{name}" '
                "(offset INTEGER PRIMARY KEY, key BLOB, value BLOB, timestamp_ms INTEGER)"
            )
            row = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
            first = max(row[0] if row else 0, at_least)
            rows = ((first + i, *record) for i, record in enumerate(records))
            count = self._db.executemany(f'INSERT INTO "{name}" VALUES (?, ?, ?, ?)', rows).rowcount
        self._count(name, max(count, 0), at_least)
        return int(first)

    def _deliver(self) -> None:
        """Write committed records that wait for standard output, then forget them."""
        stream = self.wiring.tags
        if not isinstance(stream, StreamSink):
            return
        with translated(self.path):
            rows = self._db.execute("SELECT id, value FROM outbox ORDER BY id").fetchall()
        if rows:
            stream.write([value for _, value in rows])
            with translated(self.path):
                self._db.execute("DELETE FROM outbox WHERE id <= ?", (rows[-1][0],))

    def end_dead_transactions(self) -> None:
        """One process writes, and what it leaves open ends with it."""

    def keep_place(self) -> None:
        """Nobody else waits for it."""

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        name = log_name(INPUT if log is Log.SPOOL else log, partition)
        if log is Log.SPOOL and not isinstance(self.wiring.source, LineStream):
            return
        with translated(self.path):
            delete_below(self._db, name, offset)

    def close(self) -> None:
        for sink in getattr(self, "_sinks", {}).values():
            sink.close()
        if hasattr(self, "_db"):
            close_cleanly(self._db)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

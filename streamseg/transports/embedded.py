"""The embedded store: one SQLite file in WAL mode that holds partitions, offsets and internal logs.

One SQLite transaction is the commit. Files take part in it: a sink's bytes are written and synced first, then the
transaction commits the file's new length together with everything else. A crash in between leaves bytes behind the
committed length, which are cut off at the next start; so each line is there exactly once. Standard output cannot be cut:
its records wait in the store until they are committed and written, and are written again if a crash came between the two.

One process writes (`flock` keeps a second one out), any number read: each reader sees one consistent state.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from streamseg.errors import ConfigError, CorruptedError, FencedError, RetriableError
from streamseg.processing.transport import (
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
from streamseg.records.outputs import DeadLetter, dead_letter_line, tombstone_line
from streamseg.transports.files import FileSink, LineStream, Source, StreamSink, lines_from

_APPLICATION_ID = 0x73736567
_SCHEMA_VERSION = 1
_INPUT = "input"
# The path of an output that is a stream.
_STREAM = "-"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE logs (name TEXT PRIMARY KEY, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE files (path TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE read_from (first_offset INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, path TEXT NOT NULL,
                        position INTEGER NOT NULL);
CREATE TABLE written_to (topic TEXT NOT NULL, first_record INTEGER NOT NULL, path TEXT NOT NULL, position INTEGER NOT NULL,
                         PRIMARY KEY (topic, first_record)) WITHOUT ROWID;
CREATE TABLE outbox (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
"""


class Reopenable(Protocol):
    """Opens a source again by its path, for `verify`."""

    def __call__(self, path: Path) -> Source: ...


class Wiring(NamedTuple):
    """What the store's input and outputs are connected to; what is None is a topic inside the store.

    Attributes:
        source: a bounded file, or a stream of lines that the store keeps until its customers are in a snapshot.
        tags: a file's path, or a stream.
    """

    source: Source | LineStream | None = None
    tags: Path | StreamSink | None = None
    dead_letters: Path | None = None


class _Pending(NamedTuple):
    """Records polled from a file and not committed: offsets [first, next) are at positions [position, end) of it."""

    first: int
    next: int
    position: int
    end: int


class EmbeddedReader:
    """The reading side, on a connection of its own that sees one committed state."""

    def __init__(self, path: Path | str, reopen: Reopenable | None = None) -> None:
        """Raises ConfigError where there is no state, CorruptedError where the file is no state or is damaged."""
        if not Path(path).is_file():
            raise ConfigError(f"there is no state file {str(path)!r}", hint="name it with --state FILE")
        self._reopen = reopen
        self.path = str(path)
        with _sqlite(self.path):
            self._db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None, timeout=10.0)
            _check_file(self._db, self.path)
            self._db.execute("BEGIN")
        self.n_partitions = int(self._meta("n_partitions"))

    def _meta(self, key: str) -> Any:
        with _sqlite(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def committed(self) -> dict[int, Committed]:
        with _sqlite(self.path):
            rows = self._db.execute("SELECT partition, next_offset, metadata FROM offsets ORDER BY partition").fetchall()
        return {partition: Committed(next_offset, metadata) for partition, next_offset, metadata in rows}

    def read(self, log: Log, partition: int, start: int) -> Iterator[tuple[int, bytes]]:
        name = _name(log, partition)
        with _sqlite(self.path):
            row = self._db.execute("SELECT first_offset FROM logs WHERE name = ?", (name,)).fetchone()
            if row is None:
                return
            if 0 < start < row[0]:
                raise CorruptedError(
                    f"offset {start} is not retained any more, the log begins at {row[0]}",
                    where=f"log {name}",
                    hint="restore the state from a backup",
                )
            query = f'SELECT offset, value FROM "{name}" WHERE offset >= ? ORDER BY offset'
            for offset, record in self._db.execute(query, (start,)):
                yield offset, record

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        with _sqlite(self.path):
            row = self._db.execute("SELECT * FROM read_from WHERE first_offset = ?", (first,)).fetchone()
        if row is not None:
            return self._from_file(row[2], row[3], first, next_offset)
        name = _name(_INPUT, partition)
        with _sqlite(self.path):
            log = self._db.execute("SELECT first_offset FROM logs WHERE name = ?", (name,)).fetchone()
            if log is None or log[0] > first:
                return None
            return _records(self._db, name, first, next_offset - first, next_offset)

    def _from_file(self, path: str, position: int, first: int, next_offset: int) -> Records | None:
        if self._reopen is None or not Path(path).is_file():
            return None
        values = self._reopen(Path(path)).read(position, next_offset - first).values
        offsets = range(first, first + len(values))
        return Records(offsets, [None] * len(values), values, [None] * len(values), next_offset)

    def published(self, topic: Topic, partition: int, first: int) -> Iterator[bytes | None] | None:
        name = _name(topic, partition)
        with _sqlite(self.path):
            files = self._db.execute(
                "SELECT first_record, path, position FROM written_to WHERE topic = ? ORDER BY first_record", (name,)
            ).fetchall()
            stored = self._db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
            total = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
        if files:
            ends = [row[0] for row in files[1:]] + [total[0] if total else 0]
            if stored is not None or not all(path != _STREAM and Path(path).is_file() for _, path, _ in files):
                return None
            return _published_in_files(files, ends, first, beyond=not self._is_written())
        if stored is None:
            return iter(()) if total is None else None
        query = f'SELECT value FROM "{name}" WHERE offset >= ? ORDER BY offset'
        return (row[0] for row in self._db.execute(query, (first,)))

    def _is_written(self) -> bool:
        """Whether a process holds the state for writing now."""
        try:
            handle = os.open(f"{self.path}.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def streamed(self, topic: Topic, partition: int) -> bool:
        with _sqlite(self.path):
            query = "SELECT 1 FROM written_to WHERE topic = ? AND path = ?"
            return self._db.execute(query, (_name(topic, partition), _STREAM)).fetchone() is not None

    def close(self) -> None:
        self._db.close()


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
        self._lock = _lock(Path(path)) if self.path != ":memory:" else None
        try:
            with _sqlite(self.path):
                self._db = _open_for_writing(self.path, n_partitions)
            self.n_partitions = int(self._meta("n_partitions"))
            if self.n_partitions != n_partitions:
                raise ConfigError(f"the state has {self.n_partitions} partitions, not {n_partitions}")
            self._generation = self._next_generation()
            self._polled = dict.fromkeys(range(self.n_partitions), 0)
            self._pending: _Pending | None = None
            self._sinks: dict[str, FileSink] = {}
            self._open_sinks()
            self._deliver()
        except BaseException:
            self.close()
            raise

    def _next_generation(self) -> int:
        with _sqlite(self.path):
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
            key = str(path.resolve())
            with _sqlite(self.path):
                row = self._db.execute("SELECT position FROM files WHERE path = ?", (key,)).fetchone()
            self._sinks[topic] = FileSink(path, None if row is None else row[0])
            self._sinks[topic].cut()
            with _sqlite(self.path):
                self._db.execute("INSERT OR IGNORE INTO files VALUES (?, 0)", (key,))

    # -- Input --------------------------------------------------------------------------------------------------------

    def ownership(self) -> Ownership:
        return Ownership(self._generation, tuple(range(self.n_partitions)))

    def seek(self, positions: Mapping[int, int]) -> None:
        self._polled.update(positions)
        self._pending = None
        for sink in self._sinks.values():
            sink.cut()

    def produce(self, partition: int, records: Iterable[tuple[bytes | None, bytes | None, int | None]]) -> None:
        """Append (key, value, timestamp in ms) to the input topic inside the store."""
        with _sqlite(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # Offsets that a file's records have taken in the meantime are not given again.
                name, taken = _name(_INPUT, partition), self.committed().get(partition, Committed(0, "")).next_offset
                self._db.execute("UPDATE logs SET next_offset = max(next_offset, ?) WHERE name = ?", (taken, name))
                self._append(name, records, taken)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        source = self.wiring.source
        partitions = self._poll_stored(max_records)
        if source is None or partitions:
            return Polled(partitions, self.ownership(), not partitions)
        if not isinstance(source, LineStream):
            return self._poll_file(source, max_records)
        # All that was read is stored before any of it is processed: a stream cannot be read again.
        lines = source.take(max_records, timeout_s)
        if lines:
            self.produce(0, ((None, line, None) for line in lines))
        partitions = self._poll_stored(max_records)
        return Polled(partitions, self.ownership(), source.ended and not partitions)

    def _poll_stored(self, max_records: int) -> dict[int, Records]:
        partitions = {}
        for partition, position in self._polled.items():
            with _sqlite(self.path):
                records = _records(self._db, _name(_INPUT, partition), position, max_records, None)
            if records is not None and len(records.offsets):
                partitions[partition] = records
                self._polled[partition] = records.next_offset
        return partitions

    def _poll_file(self, source: Source, max_records: int) -> Polled:
        first = self._polled[0]
        position = self._pending.end if self._pending else self.position(source)
        read = source.read(position, max_records)
        if not read.values:
            return Polled({}, self.ownership(), True)
        n = len(read.values)
        self._pending = _Pending(first, first + n, position, read.position)
        self._polled[0] = first + n
        records = Records(range(first, first + n), [None] * n, read.values, [None] * n, first + n)
        return Polled({0: records}, self.ownership(), False)

    def position(self, source: Source) -> int:
        with _sqlite(self.path):
            key = str(source.path.resolve())
            row = self._db.execute("SELECT position FROM files WHERE path = ?", (key,)).fetchone()
        return row[0] if row else 0

    # -- Commit -------------------------------------------------------------------------------------------------------

    def commit(self, plan: CommitPlan) -> CommitResult:
        current = int(self._meta("generation"))
        if plan.ownership.generation != current:
            raise FencedError(
                "another process has taken over this state", where=self.path, hint="let one process write to a state"
            )
        try:
            self._fault("before_write")
            with _sqlite(self.path):
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
            with _sqlite(self.path):
                self._db.execute("COMMIT")
        except RetriableError:
            # The disk said no to the very commit: what became of it only the store knows.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return CommitResult(Outcome.UNKNOWN)
        for sink in self._sinks.values():
            sink.length = sink.written
        if self._pending and plan.offsets.get(0, Committed(-1, "")).next_offset == self._pending.next:
            self._pending = None
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
        self._append(_name(Topic.CATALOG, 0), ((key, value, None) for key, value in plan.catalog))
        first_offsets = []
        for log, partition, records in plan.internal:
            first_offsets.append(self._append(_name(log, partition), ((None, record, None) for record in records)))
        rows = [(partition, *offset) for partition, offset in plan.offsets.items()]
        with _sqlite(self.path):
            self._db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)
        self._write_positions(plan)
        return first_offsets

    def _write_positions(self, plan: CommitPlan) -> None:
        source, pending = self.wiring.source, self._pending
        with _sqlite(self.path):
            for sink in self._sinks.values():
                key = str(sink.path.resolve())
                self._db.execute("UPDATE files SET position = ? WHERE path = ?", (sink.written, key))
            if pending is None or source is None or isinstance(source, LineStream):
                return
            if plan.offsets.get(0, Committed(-1, "")).next_offset == pending.next:
                key = str(source.path.resolve())
                self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (key, pending.end))
                row = (pending.first, pending.next, key, pending.position)
                self._db.execute("INSERT OR REPLACE INTO read_from VALUES (?, ?, ?, ?)", row)

    def _publish_tags(self, partition: int, tags: Tagged) -> None:
        name = _name(Topic.ASSIGNMENTS, partition)
        if self.wiring.tags is None:
            self._append(name, ((i.encode(), value, None) for i, value in zip(tags.ids, tags.values, strict=True)))
            return
        lines = [tombstone_line(i) if value is None else value for i, value in zip(tags.ids, tags.values, strict=True)]
        if isinstance(self.wiring.tags, StreamSink):
            with _sqlite(self.path):
                self._db.executemany("INSERT INTO outbox (value) VALUES (?)", ((line,) for line in lines))
            self._note_path(name, self._count(name, len(lines)), _STREAM, 0)
        else:
            self._append_lines(Topic.ASSIGNMENTS, name, lines)

    def _publish_letters(self, partition: int, letters: Sequence[DeadLetter]) -> None:
        name = _name(Topic.DEAD_LETTERS, partition)
        if Topic.DEAD_LETTERS in self._sinks:
            self._append_lines(Topic.DEAD_LETTERS, name, [dead_letter_line(letter) for letter in letters])
        else:
            self._append(name, ((letter.key, dead_letter_line(letter), None) for letter in letters))

    def _append_lines(self, topic: Topic, name: str, lines: list[bytes]) -> None:
        sink = self._sinks[topic]
        self._note_path(name, self._count(name, len(lines)), str(sink.path.resolve()), sink.written)
        sink.append(b"".join([line + b"\n" for line in lines]))

    def _note_path(self, name: str, first: int, path: str, position: int) -> None:
        """Where records from `first` on are, if that is another place than before."""
        with _sqlite(self.path):
            query = "SELECT path FROM written_to WHERE topic = ? ORDER BY first_record DESC LIMIT 1"
            last = self._db.execute(query, (name,)).fetchone()
            if last is None or last[0] != path:
                self._db.execute("INSERT OR REPLACE INTO written_to VALUES (?, ?, ?, ?)", (name, first, path, position))

    def _count(self, name: str, n: int, at_least: int = 0) -> int:
        """Give the next n offsets of a log. Returns the first."""
        with _sqlite(self.path):
            row = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
            first = max(row[0] if row else 0, at_least)
            self._db.execute(
                "INSERT INTO logs VALUES (?, 0, ?) ON CONFLICT (name) DO UPDATE SET next_offset = excluded.next_offset",
                (name, first + n),
            )
        return int(first)

    def _append(self, name: str, records: Iterable[tuple[bytes | None, bytes | None, int | None]], at_least: int = 0) -> int:
        """Append (key, value, timestamp) to a log inside the store. Returns the offset of the first."""
        with _sqlite(self.path):
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
        with _sqlite(self.path):
            rows = self._db.execute("SELECT id, value FROM outbox ORDER BY id").fetchall()
        if rows:
            stream.write([value for _, value in rows])
            with _sqlite(self.path):
                self._db.execute("DELETE FROM outbox WHERE id <= ?", (rows[-1][0],))

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        name = _name(_INPUT if log is Log.SPOOL else log, partition)
        if log is Log.SPOOL and not isinstance(self.wiring.source, LineStream):
            return
        with _sqlite(self.path):
            row = self._db.execute("SELECT first_offset, next_offset FROM logs WHERE name = ?", (name,)).fetchone()
            if row is None or offset <= row[0]:
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(f'DELETE FROM "{name}" WHERE offset < ?', (offset,))
            self._db.execute("UPDATE logs SET first_offset = ? WHERE name = ?", (min(offset, row[1]), name))
            self._db.execute("COMMIT")
            # What was deleted (perhaps an erased customer) must not live on in the write-ahead log.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        for sink in getattr(self, "_sinks", {}).values():
            sink.close()
        if hasattr(self, "_db"):
            self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _sqlite:
    """Turns SQLite's errors into ours."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        text = str(error)
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in text:
            hint = "free space, then run the same command again" if "full" in text else "try again"
            raise RetriableError(f"the state cannot be written or read: {text}", where=self._path, hint=hint) from error
        raise CorruptedError(
            f"the state file is damaged or is no streamseg state: {text}",
            where=self._path,
            hint="restore it from a backup, or start a new state with another --state",
        ) from error


def _open_for_writing(path: str, n_partitions: int) -> sqlite3.Connection:
    if Path(path).is_dir():
        raise ConfigError(f"the state {path!r} is a directory", hint="name a file with --state")
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    new = path == ":memory:" or not Path(path).exists() or Path(path).stat().st_size == 0
    db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    if not new and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        # A process was killed while it made the file.
        new = db.execute("PRAGMA application_id").fetchone()[0] == 0
    if not new:
        _check_file(db, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    if new:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        values = {"n_partitions": n_partitions, "generation": 0}
        db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        db.execute("COMMIT")
    return db


def _check_file(db: sqlite3.Connection, path: str) -> None:
    """Raises CorruptedError where the file is a foreign database, or shorter than it says."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION_ID:
        raise CorruptedError("the file is a database of another program", where=path, hint="name another file with --state")
    if version != _SCHEMA_VERSION:
        raise ConfigError(
            f"the state has schema version {version}, this program reads {_SCHEMA_VERSION}",
            where=path,
            hint="run the version of streamseg that wrote it",
        )
    pages = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    wal = Path(path + "-wal")
    if Path(path).stat().st_size < pages and not (wal.exists() and wal.stat().st_size):
        raise CorruptedError(
            "the state file is truncated",
            where=path,
            hint="restore it from a backup, or start a new state with another --state",
        )


def _lock(path: Path) -> int:
    """Holds the state for this process; the system lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise ConfigError(
            f"another process (pid {holder or 'unknown'}) writes to this state",
            where=str(path),
            hint="stop it, or name another state with --state; `explain` and `segments` may read meanwhile",
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def _records(db: sqlite3.Connection, name: str, start: int, max_records: int, next_offset: int | None) -> Records | None:
    if db.execute("SELECT 1 FROM logs WHERE name = ?", (name,)).fetchone() is None:
        return None
    query = f'SELECT offset, key, value, timestamp_ms FROM "{name}" WHERE offset >= ? ORDER BY offset LIMIT ?'
    rows = db.execute(query, (start, max_records)).fetchall()
    if not rows:
        return Records([], [], [], [], start)
    offsets, keys, values, timestamps = zip(*rows, strict=True)
    return Records(offsets, keys, values, timestamps, next_offset or offsets[-1] + 1)


def _published_in_files(files: list[tuple[int, str, int]], ends: list[int], first: int, *, beyond: bool) -> Iterator[bytes]:
    """`beyond`: also lines behind the committed ones, which nobody who writes now can have put there."""
    for (begin, path, position), end in zip(files, ends, strict=True):
        if end <= first:
            continue
        lines = lines_from(Path(path), max(0, first - begin), position)
        for _ in range(max(first, begin), end):
            line = next(lines, None)
            if line is None:
                return
            yield line
    if beyond:
        yield from _beyond(files, ends)


def _beyond(files: list[tuple[int, str, int]], ends: list[int]) -> Iterator[bytes]:
    """Lines in the last file that nobody committed."""
    begin, path, position = files[-1]
    yield from lines_from(Path(path), ends[-1] - begin, position)


def _name(log: str, partition: int) -> str:
    return f"{log}-{partition}"


def _quoted(path: Path | str) -> str:
    return str(Path(path).absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

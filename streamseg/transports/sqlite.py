"""The state file: opening, checking, and SQLite's errors in our words. The one place that imports sqlite3."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from streamseg.engine.ports import Records
from streamseg.errors import ConfigError, CorruptedError, RetriableError
from streamseg.transports.at_rest import opened

Connection = sqlite3.Connection

_APPLICATION_ID = 0x73736567
_SCHEMA_VERSION = 4

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE logs (name TEXT PRIMARY KEY, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE files (path TEXT PRIMARY KEY, position INTEGER NOT NULL, format TEXT, open_row BLOB) WITHOUT ROWID;
CREATE TABLE read_from (first_offset INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, path TEXT NOT NULL,
                        position INTEGER NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE written_to (topic TEXT NOT NULL, first_record INTEGER NOT NULL, path TEXT NOT NULL, position INTEGER NOT NULL,
                         PRIMARY KEY (topic, first_record)) WITHOUT ROWID;
CREATE TABLE outbox (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
"""


class translated:
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


def open_for_reading(path: str, *, as_is: bool = False) -> Connection:
    """A connection that sees one committed state. Raises CorruptedError where the file is no state or is damaged.

    `as_is`: although it lacks its write-ahead log.
    """
    if Path(path).stat().st_size == 0:
        raise ConfigError("the state file is empty, no run has begun with it", where=path, hint="name another with --state")
    if not as_is:
        _check_log(path)
    with translated(path):
        db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None, timeout=10.0)
        _check_file(db, path)
        db.execute("BEGIN")
    return db


def open_for_writing(path: str, n_partitions: int) -> Connection:
    if Path(path).is_dir():
        raise ConfigError(f"the state {path!r} is a directory", hint="name a file with --state")
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    new = path == ":memory:" or not Path(path).exists() or Path(path).stat().st_size == 0
    if new and path != ":memory:":
        # SQLite gives what it puts beside a database the same permissions.
        os.close(opened(path, os.O_RDWR))
    if not new:
        _check_log(path)
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
        values = {"n_partitions": n_partitions, "generation": 0, "open": 0}
        db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        db.execute("COMMIT")
    # In the file itself, not in its log: a copy of the file alone, taken while a job runs, is known by it.
    db.execute("UPDATE meta SET value = 1 WHERE key = 'open'")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return db


def delete_below(db: Connection, name: str, offset: int) -> None:
    """Delete the records of a log that stand before an offset."""
    row = db.execute("SELECT first_offset, next_offset FROM logs WHERE name = ?", (name,)).fetchone()
    if row is None or offset <= row[0]:
        return
    db.execute("BEGIN IMMEDIATE")
    db.execute(f'DELETE FROM "{name}" WHERE offset < ?', (offset,))
    db.execute("UPDATE logs SET first_offset = ? WHERE name = ?", (min(offset, row[1]), name))
    db.execute("COMMIT")
    # What was deleted (perhaps an erased customer) must not live on in the write-ahead log.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def note_rotation(db: Connection, key: str, name_of_old: str) -> None:
    """The file that the state calls `key` has another name now: what was read of it is found by how it begins."""
    old = key + name_of_old
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE OR REPLACE files SET path = ? WHERE path = ?", (old, key))
    db.execute("UPDATE read_from SET path = ? WHERE path = ?", (old, key))
    db.execute("COMMIT")


def close_cleanly(db: Connection) -> None:
    """Close a connection that writes, with all that was written in the file itself."""
    with suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")
        # Where that does not work its log stays, and so does the mark.
        db.execute("UPDATE meta SET value = 0 WHERE key = 'open'")
    db.close()


def back_up(path: str, target: str, *, as_is: bool = False) -> None:
    """Write a copy of a state as of its last commit, also while a job writes to it. Raises StreamsegError, OSError.

    `as_is`: of a state that lacks its write-ahead log, too.
    """
    source = open_for_reading(path, as_is=as_is)
    try:
        os.close(opened(target, os.O_RDWR | os.O_TRUNC))
        with translated(target):
            copy = sqlite3.connect(target, isolation_level=None)
            source.backup(copy)
            close_cleanly(copy)
    finally:
        source.close()


def _check_log(path: str) -> None:
    """Raises CorruptedError where the file was not closed and lacks its write-ahead log.

    Looked at in a way that makes no log: one that is there afterwards would hide that it was missing.
    """
    if Path(path + "-wal").exists():
        return
    try:
        db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro&immutable=1", uri=True)
        row = db.execute("SELECT value FROM meta WHERE key = 'open'").fetchone()
        db.close()
    except sqlite3.Error:
        # No state: what it is instead the next look says.
        return
    # A job may have begun in between.
    if row is not None and row[0] and not Path(path + "-wal").exists():
        raise CorruptedError(
            "the state may lack what was committed last: it was copied while a job ran, or after a crash, without its -wal",
            where=path,
            hint="copy a state with `streamseg backup`, or all its files while no job runs; if nothing is lost, as another "
            "program of SQLite has opened it since, `streamseg backup --as-is` makes a state of it",
        )


def _check_file(db: Connection, path: str) -> None:
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


def stored_records(db: Connection, name: str, start: int, max_records: int, next_offset: int | None) -> Records | None:
    if db.execute("SELECT 1 FROM logs WHERE name = ?", (name,)).fetchone() is None:
        return None
    query = f'SELECT offset, key, value, timestamp_ms FROM "{name}" WHERE offset >= ? ORDER BY offset LIMIT ?'
    rows = db.execute(query, (start, max_records)).fetchall()
    if not rows:
        return Records([], [], [], [], start)
    offsets, keys, values, timestamps = zip(*rows, strict=True)
    return Records(offsets, keys, values, timestamps, next_offset or offsets[-1] + 1)


def log_name(log: str, partition: int) -> str:
    return f"{log}-{partition}"


def _quoted(path: Path | str) -> str:
    return str(Path(path).absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

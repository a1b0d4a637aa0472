"""The state file: opening, checking, and SQLite's errors in our words. The one place that imports sqlite3."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from streamseg.errors import ConfigError, CorruptedError, RetriableError
from streamseg.processing.transport import Records
from streamseg.transports.at_rest import opened

Connection = sqlite3.Connection

_APPLICATION_ID = 0x73736567
_SCHEMA_VERSION = 3

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


def open_for_reading(path: str) -> Connection:
    """A connection that sees one committed state. Raises CorruptedError where the file is no state or is damaged."""
    if Path(path).stat().st_size == 0:
        raise ConfigError("the state file is empty, no run has begun with it", where=path, hint="name another with --state")
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

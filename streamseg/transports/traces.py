"""What a state file, and the files written from it, hold about one customer beside the state of its partition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from streamseg.engine.ports import Topic
from streamseg.formats.outputs import tombstone_line
from streamseg.formats.subject import Subject
from streamseg.transports.embedded import EmbeddedTransport
from streamseg.transports.reader import INPUT
from streamseg.transports.sqlite import log_name, translated

# What stands in a file in place of an erased line, filled up to its length: lengths of files are committed.
_FILLER = b'{"erased":true}'


class Removed(NamedTuple):
    """How many records were removed: from inside the state, and by file."""

    stored: int
    lines: dict[str, int]


def remove(store: EmbeddedTransport, subject: Subject) -> Removed:
    """Remove all records about a customer who was erased. INOUT store. Raises RetriableError, OSError.

    A line of a file is overwritten in place; the one that says the customer is erased stays, for whoever reads the tags.
    What is removed is older than the oldest snapshot, so that `verify` does not reach back to it.
    """
    lines = {}
    for path, topic in store.output_files():
        n = _overwrite(path, topic, subject)
        if n:
            lines[str(path)] = n
    return Removed(_delete(store, subject), lines)


def _overwrite(path: Path, topic: str, subject: Subject) -> int:
    """Returns how many lines."""
    n, at, kept = 0, 0, tombstone_line(subject.customer)
    with path.open("r+b") as file:
        for line in file.readlines():
            text = line.removesuffix(b"\n")
            if text != kept and subject.is_published(topic, text):
                file.seek(at)
                file.write((_FILLER if len(text) >= len(_FILLER) else b"{}").ljust(len(text)))
                n += 1
            at += len(line)
    return n


def _delete(store: EmbeddedTransport, subject: Subject) -> int:
    found = list(_stored(store, subject))
    database = store._db
    with translated(store.path):
        database.execute("BEGIN IMMEDIATE")
        for name, offset in found:
            database.execute(f'DELETE FROM "{name}" WHERE offset = ?', (offset,))
        database.execute("UPDATE files SET open_row = NULL")
        database.execute("COMMIT")
        # What was deleted must not live on in the write-ahead log.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return len(found)


def _stored(store: EmbeddedTransport, subject: Subject) -> Iterator[tuple[str, int]]:
    """Logs inside the state, and offsets in them."""
    for topic in (INPUT, Topic.ASSIGNMENTS, Topic.DEAD_LETTERS):
        for partition in range(store.n_partitions):
            name, database = log_name(topic, partition), store._db
            with translated(store.path):
                query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
                there = database.execute(query, (name,)).fetchone() is not None
                rows = database.execute(f'SELECT offset, key, value FROM "{name}"').fetchall() if there else []
            for offset, key, value in rows:
                if value is None:
                    about = key == subject.key and topic == INPUT
                elif topic == INPUT:
                    about = key == subject.key or subject.is_input(value)
                else:
                    about = subject.is_published(topic, value)
                if about:
                    yield name, offset

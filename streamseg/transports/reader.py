"""The embedded store as restore, `verify`, `explain` and `segments` read it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from streamseg.engine.ports import NO_TOPIC_IDS, Committed, Log, Published, Records, Topic, TopicIds
from streamseg.errors import ConfigError, TruncatedError
from streamseg.transports import writer_lock
from streamseg.transports.files import Source, lines_from
from streamseg.transports.rotation import RotatedFile, found_again, named
from streamseg.transports.sqlite import log_name, open_for_reading, stored_records, translated

INPUT = "input"
# The path of an output that is a stream.
STREAM = "-"


class Reopenable(Protocol):
    """Opens a source again by its path, for `verify`."""

    def __call__(self, path: Path, *, at: Path | None = None) -> Source:
        """`at`: where the file is now, if it was rotated since."""
        ...


class EmbeddedReader:
    """The reading side, on a connection of its own that sees one committed state."""

    def __init__(self, path: Path | str, reopen: Reopenable | None = None) -> None:
        """Raises ConfigError where there is no state, CorruptedError where the file is no state or is damaged."""
        if not Path(path).is_file():
            raise ConfigError(f"there is no state file {str(path)!r}", hint="name it with --state FILE")
        self._reopen = reopen
        self.path = str(path)
        self._db = open_for_reading(self.path)
        self.n_partitions = int(self._meta("n_partitions"))

    def _key_of(self, path: Path) -> str:
        """How the state names a file: from its own directory on, so that both may be moved together."""
        return _key_of(path, Path(self.path))

    def _path_of(self, key: str) -> Path:
        return Path(self.path).resolve().parent / key

    def check(self, source: Source) -> None:
        """Raises ConfigError where the records of a file that were read last are not there any more."""
        key = self._key_of(source.path)
        source.settle(self._known(key))
        self._check_open_row(source, key)
        query = "SELECT first_offset, next_offset, position, checksum FROM read_from WHERE path = ? ORDER BY 1 DESC LIMIT 1"
        with translated(self.path):
            row = self._db.execute(query, (key,)).fetchone()
        if row is None or (isinstance(source, RotatedFile) and source.is_gone):
            return
        first, end, position, checksum = row
        if Records.of_values(source.read(position, end - first).values, first).checksum != checksum:
            raise ConfigError(
                "the input file is another one than before: the records that were read last are not there any more",
                where=str(source.path),
                hint="append to a file that was read; give new events a file of their own, or another --state",
            )

    def _known(self, key: str) -> str | None:
        """What was found of a file when it was read."""
        with translated(self.path):
            row = self._db.execute("SELECT format FROM files WHERE path = ?", (key,)).fetchone()
        return row[0] if row else None

    def _check_open_row(self, source: Source, key: str) -> None:
        """Raises ConfigError where a last row that had no line end has grown since it was taken for a whole one."""
        with translated(self.path):
            row = self._db.execute("SELECT position, open_row FROM files WHERE path = ?", (key,)).fetchone()
        if row is None or row[1] is None:
            return
        now = source.read(row[0] - 1, 1).values
        if now and now[0] != row[1]:
            before, after = (value.decode(errors="replace")[:200] for value in (row[1], now[0]))
            raise ConfigError(
                f"row {row[0]:,} of the input had no line end and was read as {before}; it has grown since: {after}",
                where=str(source.path),
                hint="give the completed row and those behind it in a file of their own, where it counts as one more "
                "event, or begin a new --state; --follow waits for the end of a last row",
            )

    def _meta(self, key: str) -> Any:
        with translated(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def topic_ids(self) -> TopicIds:
        """A state file has none: it is what it is."""
        return NO_TOPIC_IDS

    def committed(self) -> dict[int, Committed]:
        with translated(self.path):
            rows = self._db.execute("SELECT partition, next_offset, metadata FROM offsets ORDER BY partition").fetchall()
        return {partition: Committed(next_offset, metadata) for partition, next_offset, metadata in rows}

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        name = log_name(log, partition)
        with translated(self.path):
            row = self._db.execute("SELECT first_offset FROM logs WHERE name = ?", (name,)).fetchone()
            if row is None:
                return
            if 0 < start < row[0]:
                raise TruncatedError(
                    f"offset {start} is not retained any more, the log begins at {row[0]}",
                    where=f"log {name}",
                    hint="restore the state from a backup",
                )
            query = f'SELECT offset, value FROM "{name}" WHERE offset >= ? ORDER BY offset'
            for offset, record in self._db.execute(query, (start,)):
                yield offset, record

    def end(self, log: Log, partition: int) -> int:
        return self._end(log_name(log, partition))

    def _end(self, name: str) -> int:
        with translated(self.path):
            row = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        with translated(self.path):
            row = self._db.execute("SELECT * FROM read_from WHERE first_offset = ?", (first,)).fetchone()
        if row is not None:
            return self._from_file(row[2], row[3], first, next_offset)
        name = log_name(INPUT, partition)
        with translated(self.path):
            log = self._db.execute("SELECT first_offset FROM logs WHERE name = ?", (name,)).fetchone()
            if log is None or log[0] > first:
                return None
            return stored_records(self._db, name, first, next_offset - first, next_offset)

    def _from_file(self, key: str, position: int, first: int, next_offset: int) -> Records | None:
        path, known = named(self._path_of(key)), self._known(key)
        there = found_again(path, known)
        if self._reopen is None or there is None:
            return None
        source = self._reopen(path, at=there)
        source.settle(known)
        values = source.read(position, next_offset - first).values
        return Records.of_values(values, first)._replace(next_offset=next_offset)

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        name = log_name(topic, partition)
        with translated(self.path):
            files = self._db.execute(
                "SELECT first_record, path, position FROM written_to WHERE topic = ? ORDER BY first_record", (name,)
            ).fetchall()
            stored = self._db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
            total = self._db.execute("SELECT next_offset FROM logs WHERE name = ?", (name,)).fetchone()
        if files:
            ends = [row[0] for row in files[1:]] + [total[0] if total else 0]
            if stored is not None or not all(path != STREAM and self._path_of(path).is_file() for _, path, _ in files):
                return None
            places = [(begin, self._path_of(path), position) for begin, path, position in files]
            lines = _published_in_files(places, ends, first, beyond=not writer_lock.is_held(self.path))
            return Published(first, lines)
        if stored is None:
            return Published(first, iter(())) if total is None else None
        query = f'SELECT value FROM "{name}" WHERE offset >= ? ORDER BY offset'
        return Published(first, (row[0] for row in self._db.execute(query, (first,))))

    def last_output(self, topic: Topic) -> Path | None:
        """The file, or `STREAM`, that a topic was last written to; None where it is inside the state."""
        query = "SELECT path FROM written_to WHERE topic = ? ORDER BY first_record DESC LIMIT 1"
        with translated(self.path):
            row = self._db.execute(query, (log_name(topic, 0),)).fetchone()
        return None if row is None else Path(STREAM) if row[0] == STREAM else self._path_of(row[0])

    def output_files(self) -> list[tuple[Path, str]]:
        """Files that were written, as far as they are there, and the topic of each."""
        with translated(self.path):
            rows = self._db.execute("SELECT DISTINCT path, topic FROM written_to WHERE path <> ?", (STREAM,)).fetchall()
        found = [(self._path_of(path), name.rpartition("-")[0]) for path, name in rows]
        return [(path, topic) for path, topic in found if path.is_file()]

    def streamed(self, topic: Topic, partition: int) -> bool:
        with translated(self.path):
            query = "SELECT 1 FROM written_to WHERE topic = ? AND path = ?"
            return self._db.execute(query, (log_name(topic, partition), STREAM)).fetchone() is not None

    def settle(self) -> None:
        """A commit is decided and readable at once."""

    def close(self) -> None:
        self._db.close()


def _published_in_files(files: list[tuple[int, Path, int]], ends: list[int], first: int, *, beyond: bool) -> Iterator[bytes]:
    """`beyond`: also lines behind the committed ones, which nobody who writes now can have put there."""
    for (begin, path, position), end in zip(files, ends, strict=True):
        if end <= first:
            continue
        lines = lines_from(path, max(0, first - begin), position)
        for _ in range(max(first, begin), end):
            line = next(lines, None)
            if line is None:
                return
            yield line
    if beyond:
        yield from _beyond(files, ends)


def _beyond(files: list[tuple[int, Path, int]], ends: list[int]) -> Iterator[bytes]:
    """Lines in the last file that nobody committed."""
    begin, path, position = files[-1]
    yield from lines_from(path, ends[-1] - begin, position)


@lru_cache
def _key_of(path: Path, state: Path) -> str:
    there, here = path.resolve(), state.resolve().parent
    return f"./{there.relative_to(here)}" if there.is_relative_to(here) else str(there)

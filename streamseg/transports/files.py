"""Files and streams as sources and sinks of the embedded store.

A source gives records from a position that it understands (a byte of a JSON-lines file, a row of a CSV or Parquet file);
the store commits the position with everything else. A sink appends; the store commits its length, and cuts off what a
crash left behind it.
"""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import msgspec

from streamseg.errors import ConfigError

# What is kept in memory of a line that is larger than any record may be.
MAX_LINE_BYTES = 16_000_000
# How long a batch that has lines waits for more of them.
_LINGER_S = 0.05


class SourceRecords(NamedTuple):
    """Values in order, the position behind them, and whether the source has no more.

    `open_row`: the last value, where its row lacked a line end, so that it may still grow.
    """

    values: list[bytes]
    position: int
    ended: bool
    open_row: bytes | None = None


class Source(Protocol):
    """A bounded, seekable input."""

    path: Path

    def settle(self, known: str | None) -> str:
        """Keep to what was found of the file when it was first read, or find it now. Raises ConfigError.

        Returns what is to be `known` at the next start.
        """
        ...

    def in_words(self) -> str:
        """What was found of the file, for people; "" where there is nothing to find."""
        ...

    def read(self, position: int, max_records: int) -> SourceRecords: ...

    def behind(self, position: int, n_records: int) -> int:
        """The position behind so many records, which were read from another one."""
        ...

    def remaining(self, position: int) -> str:
        """How much is left behind a position, for people."""
        ...


# Of a file, read at once.
_CHUNK_BYTES = 64_000


class JsonLinesSource:
    """A JSON text on each line. Positions are bytes; blank lines are no records."""

    def __init__(
        self, path: Path, max_line_bytes: int = MAX_LINE_BYTES, chunk_bytes: int = _CHUNK_BYTES, *, ended: bool = False
    ) -> None:
        """`ended`: nothing more is written, so a last line without a line end is a record, too."""
        self.path = path
        self._ended = ended
        self._max_line_bytes = max_line_bytes
        # No line of a chunk is too large for a record.
        self._chunk_bytes = min(chunk_bytes, max_line_bytes)

    def settle(self, known: str | None) -> str:
        """Raises ConfigError where the file is surely none of JSON lines."""
        with self.path.open("rb") as file:
            begin = file.read(_CHUNK_BYTES)
            _check_lines(self.path, begin.removeprefix(codecs.BOM_UTF8))
            if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ConfigError(
                    "the file of JSON lines is UTF-16, JSON is UTF-8",
                    where=str(self.path),
                    hint=f"convert it: iconv -f UTF-16 -t UTF-8 {self.path} > events.jsonl",
                )
        return ""

    def in_words(self) -> str:
        return ""

    def read(self, position: int, max_records: int) -> SourceRecords:
        size = self.path.stat().st_size
        if position > size:
            raise _shrunk(self.path, position, size, "bytes")
        values: list[bytes] = []
        with self.path.open("rb") as file:
            while len(values) < max_records:
                file.seek(position)
                lines, newline, _ = file.read(self._chunk_bytes).rpartition(b"\n")
                if newline:
                    position = _take_lines(lines.split(b"\n"), values, max_records, position)
                    continue
                file.seek(position)
                line, n_bytes, whole = _bounded_line(file, self._max_line_bytes)
                if not line or (not whole and not self._ended and not _is_json(line)):
                    # A last line that is still being written is left for the next run.
                    return SourceRecords(values, position, True)
                _take_lines([line], values, max_records, position)
                position += n_bytes
            return SourceRecords(values, position, False)

    def behind(self, position: int, n_records: int) -> int:
        return self.read(position, n_records).position

    def remaining(self, position: int) -> str:
        return _size(max(0, self.path.stat().st_size - position))


def _check_lines(path: Path, begin: bytes) -> None:
    """Raises ConfigError where JSON is not one object a line. `begin`: of the file."""
    first = begin.lstrip().split(b"\n", 1)[0].strip()
    to_do = ""
    if first.startswith(b"["):
        to_do = f"jq -c '.[]' {path} > events.jsonl"
    elif first == b"{":
        to_do = f"jq -c . {path} > events.jsonl"
    elif b"\r" in begin and b"\n" not in begin:
        to_do = f"tr '\\r' '\\n' < {path} > events.jsonl"
    if to_do:
        raise ConfigError("the file has not one JSON object on each line", where=str(path), hint=f"convert it: {to_do}")


def _take_lines(lines: list[bytes], values: list[bytes], most: int, position: int) -> int:
    """Append non-blank lines to `values`, up to `most` in all. INOUT values. Returns the position of the next line."""
    for line in lines:
        position += len(line) + 1
        value = line.removeprefix(codecs.BOM_UTF8).strip()
        if value:
            values.append(value)
            if len(values) == most:
                break
    return position


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _bounded_line(file: BinaryIO, max_bytes: int) -> tuple[bytes, int, bool]:
    """A line, its bytes, and whether it has ended; of one that is too large for any record only its beginning."""
    line = rest = file.readline(max_bytes)
    n_bytes = len(line)
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(max_bytes)
        n_bytes += len(rest)
    return line, n_bytes, rest.endswith(b"\n")


class RowSource:
    """Positions are rows; a restart reads again up to its row. Keeps its place between reads, also at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: Iterator[bytes | None] | None = None
        self._at = -1
        # Behind the last row, once it was read.
        self._end: int | None = None
        # Whether the last row that was read lacked its line end.
        self.last_is_open = False

    def _values(self) -> Iterator[bytes | None]:
        """Rows, and None as often as there are no more, or not yet."""
        raise NotImplementedError

    def settle(self, known: str | None) -> str:
        return ""

    def in_words(self) -> str:
        return ""

    def read(self, position: int, max_records: int) -> SourceRecords:
        if self._rows is None or self._at != position:
            self._rows, self._at = self._values(), 0
            for _ in range(position):
                if next(self._rows) is None:
                    raise _shrunk(self.path, position, self._at, "rows")
                self._at += 1
        values: list[bytes] = []
        for value in self._rows:
            if value is None:
                break
            values.append(value)
            if len(values) == max_records:
                break
        self._at = position + len(values)
        ended = len(values) < max_records
        self._end = self._at if ended else None
        return SourceRecords(values, self._at, ended, values[-1] if values and self.last_is_open else None)

    def behind(self, position: int, n_records: int) -> int:
        return position + n_records

    def remaining(self, position: int) -> str:
        return "none" if position == self._end else f"from row {position} on"


class LineStream:
    """Lines of standard input, or any file descriptor, as they come."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._partial = b""
        self._lines: list[bytes] = []
        self.ended = False

    def take(self, max_lines: int, timeout_s: float) -> list[bytes]:
        """About `max_lines` lines, blank ones left out; waits up to `timeout_s` for the first, and a moment for more."""
        while len(self._lines) < max_lines and not self.ended:
            ready, _, _ = select.select([self._fd], [], [], _LINGER_S if self._lines else timeout_s)
            if not ready:
                break
            data = os.read(self._fd, 1 << 20)
            if not data:
                self.ended = True
                data = b"\n" if self._partial else b""
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._lines += [line for line in map(bytes.strip, lines) if line]
        taken, self._lines = self._lines, []
        return taken


def lines_from(path: Path, first: int, start: int) -> Iterator[bytes]:
    """Lines of a file from byte `start`, the first `first` of them left out."""
    with path.open("rb") as file:
        file.seek(start)
        for i, line in enumerate(file):
            if i >= first:
                yield line[:-1] if line.endswith(b"\n") else line


def _shrunk(path: Path, position: int, size: int, unit: str) -> ConfigError:
    return ConfigError(
        f"the input file has {size} {unit}, but {position} were read before",
        where=str(path),
        hint="give the file that the state has read (it may have grown), or another --state",
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"

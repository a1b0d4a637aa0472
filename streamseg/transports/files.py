"""Files and streams as sources and sinks of the embedded store.

A source gives records from a position that it understands (a byte of a JSON-lines file, a row of a CSV or Parquet file);
the store commits the position with everything else. A sink appends; the store commits its length, and cuts off what a
crash left behind it.
"""

from __future__ import annotations

import codecs
import csv
import math
import os
import select
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec

from streamseg.errors import ConfigError

# What is kept in memory of a line that is larger than any record may be.
MAX_LINE_BYTES = 16_000_000
# How long a batch that has lines waits for more of them.
_LINGER_S = 0.05
# Lines that one row of a CSV file may span, by line breaks within quotes.
_MAX_ROW_LINES = 100
csv.field_size_limit(MAX_LINE_BYTES)


class SourceRecords(NamedTuple):
    """Values in order, the position behind them, and whether the source has no more."""

    values: list[bytes]
    position: int
    ended: bool


class Source(Protocol):
    """A bounded, seekable input."""

    path: Path

    def read(self, position: int, max_records: int) -> SourceRecords: ...

    def remaining(self, position: int) -> str:
        """How much is left behind a position, for people."""
        ...


def open_source(path: Path, numbers: Sequence[str], event_time: str) -> Source:
    """By its ending. `numbers` and `event_time`: fields that CSV does not tell from text. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"the input {str(path)!r} is a directory", hint="give a file with --input FILE, or - for stdin")
    if not path.exists():
        raise ConfigError(f"there is no input file {str(path)!r}", hint="give the events with --input FILE, or - for stdin")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"cannot read the input file: {error}") from None
    match path.suffix.lower():
        case ".csv":
            return CsvSource(path, numbers, event_time)
        case ".parquet":
            return ParquetSource(path)
        case ".jsonl" | ".ndjson" | ".json":
            return JsonLinesSource(path)
        case ending:
            raise ConfigError(
                f"cannot tell what {str(path)!r} holds by {ending!r}", hint="end it in .jsonl, .csv or .parquet"
            )


# Of a file, read at once.
_CHUNK_BYTES = 64_000


class JsonLinesSource:
    """A JSON text on each line. Positions are bytes; blank lines are no records."""

    def __init__(self, path: Path, max_line_bytes: int = MAX_LINE_BYTES, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self.path = path
        self._max_line_bytes = max_line_bytes
        # No line of a chunk is too large for a record.
        self._chunk_bytes = min(chunk_bytes, max_line_bytes)

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
                if not line or (not whole and not _is_json(line)):
                    # A last line that is still being written is left for the next run.
                    return SourceRecords(values, position, True)
                _take_lines([line], values, max_records, position)
                position += n_bytes
            return SourceRecords(values, position, False)

    def remaining(self, position: int) -> str:
        return _size(max(0, self.path.stat().st_size - position))


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


class _RowSource:
    """Positions are rows; a restart reads again up to its row. Keeps its place between reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: Iterator[bytes] | None = None
        self._at = -1
        # Behind the last row, once it was read.
        self._end: int | None = None

    def _values(self) -> Iterator[bytes]:
        raise NotImplementedError

    def read(self, position: int, max_records: int) -> SourceRecords:
        if self._rows is None or self._at != position:
            self._rows, self._at = self._values(), 0
            for _ in range(position):
                if next(self._rows, None) is None:
                    raise _shrunk(self.path, position, self._at, "rows")
                self._at += 1
        values: list[bytes] = []
        for value in self._rows:
            values.append(value)
            if len(values) == max_records:
                break
        self._at = position + len(values)
        ended = len(values) < max_records
        self._end = self._at if ended else None
        return SourceRecords(values, self._at, ended)

    def remaining(self, position: int) -> str:
        return "none" if position == self._end else f"from row {position} on"


class CsvSource(_RowSource):
    """Rows with a header line. A cell of a number's field that is a number becomes one; an empty cell is null."""

    def __init__(self, path: Path, numbers: Sequence[str], event_time: str) -> None:
        super().__init__(path)
        self._numbers = frozenset(numbers)
        self._event_time = event_time

    def _values(self) -> Iterator[bytes]:
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = next(csv.reader([file.readline()]), [])
            for text in _csv_records(file, len(header)):
                if text.strip():
                    yield self._value(header, text)

    def _value(self, header: list[str], text: str) -> bytes:
        """JSON of a row; one that is no row of this table stays as it is, so that it becomes a dead letter, whole."""
        raw = text.rstrip("\r\n").encode(errors="surrogateescape")
        try:
            (row,) = csv.reader(text.splitlines(keepends=True))
        except (csv.Error, ValueError):
            return raw
        if len(row) != len(header):
            return raw
        try:
            return msgspec.json.encode({name: self._cell(name, cell) for name, cell in zip(header, row, strict=True)})
        except (UnicodeEncodeError, ValueError):
            return raw

    def _cell(self, name: str, cell: str) -> Any:
        text = cell.strip()
        if not text:
            return None
        if name == "erase" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if name not in self._numbers and name != self._event_time:
            return text
        if text.lstrip("-").isdigit():
            return int(text)
        if name == self._event_time:
            return text
        try:
            number = float(text)
        except ValueError:
            return text
        if math.isfinite(number):
            return number
        return msgspec.Raw(b"NaN" if math.isnan(number) else b"Infinity" if number > 0 else b"-Infinity")


def _csv_records(file: Iterator[str], width: int) -> Iterator[str]:
    """The text of each row of `width` cells. A quote that is not closed spoils its own line, and no other."""
    lines: list[str] = []
    again: deque[str] = deque()
    while True:
        line = again.popleft() if again else next(file, None)
        if line is None and not lines:
            return
        lines += [line] if line is not None else []
        text = "".join(lines)
        closed = text.count('"') % 2 == 0
        if closed and (len(lines) == 1 or _width(text) == width):
            yield text
            lines = []
        elif closed or line is None or len(lines) > _MAX_ROW_LINES:
            yield lines[0]
            again.extendleft(reversed(lines[1:]))
            lines = []


def _width(text: str) -> int:
    try:
        return len(next(csv.reader(text.splitlines(keepends=True))))
    except (csv.Error, StopIteration):
        return -1


class ParquetSource(_RowSource):
    """Rows of a Parquet file. Needs pyarrow (the extra `parquet`)."""

    def _values(self) -> Iterator[bytes]:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise ConfigError("reading Parquet needs pyarrow", hint="install streamseg with its extra `parquet`") from None
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(batch_size=10_000):
                for row in batch.to_pylist():
                    yield msgspec.json.encode(row)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read Parquet: {error}", where=str(self.path)) from None


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

"""Rows of a CSV file as JSON."""

from __future__ import annotations

import csv
import math
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from streamseg.transports.csv_format import (
    FIND_ALL,
    SAMPLE_BYTES,
    Columns,
    CsvFormat,
    CsvWanted,
    found_format,
    header_of,
    number_in,
)
from streamseg.transports.files import MAX_LINE_BYTES, RowSource

# Lines that one row may span, by line breaks within quotes.
_MAX_ROW_LINES = 100
# An id that a table of floats made of an integer; with a sign or leading zeros it is a text.
_FLOAT_ID = re.compile(r"(0|[1-9]\d*)\.0+")
# What databases and statistics programs write where there is no value: nobody's id, and no number.
_NOTHING = frozenset({"NULL", "null", "\\N", "N/A", "#N/A", "n/a", "<NA>", "None"})
csv.field_size_limit(MAX_LINE_BYTES)


class CsvSource(RowSource):
    """Rows with a header line. A cell of a number's field that is a number becomes one; an empty cell is null.

    Only line feeds and carriage returns end a row; within quotes they belong to the cell.
    """

    def __init__(self, path: Path, columns: Columns, wanted: CsvWanted = FIND_ALL, *, follow: bool = False) -> None:
        """`follow`: the last row is not read before its line has ended."""
        super().__init__(path)
        self._columns, self._wanted, self._follow = columns, wanted, follow
        self._numbers = frozenset(columns.numbers)
        self._format: CsvFormat | None = None

    def settle(self, known: str | None) -> str:
        if self._format is None and known:
            self._format = msgspec.json.decode(known, type=CsvFormat)
        elif self._format is None and self._has_header():
            self._format = found_format(self.path, self._wanted, self._columns)
        return "" if self._format is None else msgspec.json.encode(self._format).decode()

    def in_words(self) -> str:
        return "" if self._format is None else self._format.in_words()

    def _has_header(self) -> bool:
        with self.path.open("rb") as file:
            sample = file.read(SAMPLE_BYTES)
        # What numbers are like only a row shows.
        return len(re.findall(rb"\r\n?|\n\0?", sample)) > 1 or (bool(sample) and not self._follow)

    def _values(self) -> Iterator[bytes | None]:
        while self._format is None:
            if not self.settle(None):
                yield None
        style = self._format
        errors = "replace" if style.encoding.startswith("utf-16") else "surrogateescape"
        with self.path.open(encoding=style.encoding, errors=errors, newline="") as file:
            lines = _Lines(file)
            header = header_of(lines.next() or lines.take_partial(), style.delimiter)
            rows = _Rows(lines, len(header), style.delimiter)
            while True:
                text = rows.next(ended=not self._follow)
                if text is None:
                    yield None
                elif text.strip():
                    self.last_is_open = not text.endswith(("\n", "\r"))
                    yield self._value(header, text, style)
                while self.last_is_open:
                    # It was taken as a whole one: what may be written behind it is no row.
                    yield None

    def _value(self, header: list[str], text: str, style: CsvFormat) -> bytes:
        """JSON of a row; one that is no row of this table stays as it is, so that it becomes a dead letter, whole."""
        raw = text.rstrip("\r\n").encode(errors="surrogateescape")
        row = _cells(text, style.delimiter)
        if row is None or len(row) != len(header) or ("\ufffd" in text and style.encoding.startswith("utf-16")):
            return raw
        try:
            return msgspec.json.encode({name: self._cell(name, cell, style) for name, cell in zip(header, row, strict=True)})
        except (UnicodeEncodeError, ValueError):
            return raw

    def _cell(self, name: str, cell: str, style: CsvFormat) -> Any:
        text = cell.strip()
        is_id = name == self._columns.customer_id
        if not text or (text in _NOTHING and (is_id or name in self._numbers)) or (is_id and text.lower() == "nan"):
            return None
        if name in self._numbers:
            return _number(text, style)
        if name == self._columns.event_time and text.lstrip("-").isdigit() and not self._columns.times_are_texts:
            return int(text)
        if is_id and _FLOAT_ID.fullmatch(text):
            return msgspec.Raw(text.encode())
        return text


def _number(text: str, style: CsvFormat) -> Any:
    """Of a number's field: what is no number as the file writes them is a dead letter, not read in some other way."""
    number = number_in(text, style)
    if number is None:
        plain = text.lstrip("+-").lower()
        if plain in ("nan", "inf", "infinity"):
            number = math.nan if plain == "nan" else math.inf
        else:
            # What reads as a number in another way of writing them is not to be read so.
            return text if style.plain else [text]
    if isinstance(number, int) or math.isfinite(number):
        return number
    return msgspec.Raw(b"NaN" if math.isnan(number) else b"-Infinity" if text.startswith("-") else b"Infinity")


def _cells(text: str, delimiter: str) -> list[str] | None:
    try:
        (row,) = csv.reader([text], delimiter=delimiter)
    except (csv.Error, ValueError):
        return None
    return row


class _Lines:
    """Lines of a file that may grow."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.partial = ""

    def next(self) -> str | None:
        """A line with its end; None where there is none yet."""
        line = self._file.readline()
        if not line.endswith(("\n", "\r")):
            self.partial += line
            return None
        line, self.partial = self.partial + line, ""
        return line

    def take_partial(self) -> str:
        """The last line, which has not ended."""
        line, self.partial = self.partial, ""
        return line


class _Rows:
    """The text of each row of `width` cells. A quote that is not closed spoils its own line, and no other."""

    def __init__(self, lines: _Lines, width: int, delimiter: str) -> None:
        self._lines, self._width, self._delimiter = lines, width, delimiter
        self._open: list[str] = []
        self._again: deque[str] = deque()

    def next(self, *, ended: bool) -> str | None:
        """None where there is none yet. `ended`: the file does not grow, and a last line is a whole one."""
        while True:
            line = self._again.popleft() if self._again else self._lines.next()
            if line is None and ended and self._lines.partial:
                line = self._lines.take_partial()
            if line is None and (not self._open or not ended):
                return None
            self._open += [line] if line is not None else []
            text = "".join(self._open)
            closed = text.count('"') % 2 == 0
            if closed and (len(self._open) == 1 or self._fits(text)):
                self._open = []
                return text
            if closed or line is None or len(self._open) > _MAX_ROW_LINES:
                first, *rest = self._open
                self._again.extendleft(reversed(rest))
                self._open = []
                return first

    def _fits(self, text: str) -> bool:
        cells = _cells(text, self._delimiter)
        return cells is not None and len(cells) == self._width

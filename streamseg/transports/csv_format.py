"""How a CSV file is written: its encoding, delimiter and numbers, found from its beginning and what the job needs of it."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from streamseg.errors import ConfigError
from streamseg.formats.likely import likely_name, setting_of

# Of a file, from its beginning, that is looked at.
SAMPLE_BYTES = 1_000_000
_DELIMITERS = (",", ";", "\t", "|")
# Signs that stand between groups of digits; a space may be a no-break one.
_GROUPS = {",": ",", ".": r"\.", " ": "[ \u00a0\u202f]", "'": "['\u2019]"}
_SIGNS = {",": "comma", ".": "point"}
_PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


class CsvFormat(msgspec.Struct, frozen=True):
    """`encoding` as Python names it; `thousands` is "none" where digits are not grouped."""

    encoding: str = "utf-8-sig"
    delimiter: str = ","
    decimal: str = "."
    thousands: str = "none"

    @property
    def plain(self) -> bool:
        """Whether numbers are written as in JSON."""
        return (self.decimal, self.thousands) == (".", "none")

    def in_words(self) -> str:
        """Such as "UTF-16, columns by ';', numbers like 1234,5"."""
        group = "" if self.thousands == "none" else self.thousands
        sign = {"\t": "tab"}.get(self.delimiter, repr(self.delimiter))
        name = self.encoding.upper().replace("-SIG", "")
        return f"{name}, columns by {sign}, numbers like 1{group}234{self.decimal}5"


class CsvWanted(NamedTuple):
    """What is configured: "auto" where it is to be found."""

    encoding: str = "auto"
    delimiter: str = "auto"
    decimal: Literal["auto", ".", ","] = "auto"
    thousands: Literal["auto", "none", ",", ".", " ", "'"] = "auto"


FIND_ALL = CsvWanted()


class Columns(NamedTuple):
    """Columns that the job reads, by the names that events have. `times_are_texts`: even those that are digits alone."""

    customer_id: str = "customer_id"
    event_time: str = "event_time"
    numbers: Sequence[str] = ()
    texts: Sequence[str] = ()
    times_are_texts: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (self.customer_id, self.event_time, *self.numbers, *self.texts)


def found_format(path: Path, wanted: CsvWanted, columns: Columns) -> CsvFormat:
    """Raises ConfigError where the file cannot be read so that all is clear: it says what was found, and what to set."""
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    encoding = _encoding(path, sample) if wanted.encoding == "auto" else wanted.encoding
    lines = _sample_lines(sample, encoding, whole=len(sample) < SAMPLE_BYTES)
    if not lines:
        return CsvFormat(encoding=encoding)
    delimiter, header = _delimiter(lines[0], wanted, columns)
    _check_header(path, header, columns)
    rows = [row for row in csv.reader(lines[1:], delimiter=delimiter) if len(row) == len(header)]
    wanted_places = [(j, name) for j, name in enumerate(header) if name in columns.numbers]
    cells = [(name, signed(row[j].strip())) for j, name in wanted_places for row in rows]
    decimal, thousands = _numbers(path, [(name, cell) for name, cell in cells if cell], delimiter, wanted)
    return CsvFormat(encoding, delimiter, decimal, thousands)


def header_of(line: str, delimiter: str) -> list[str]:
    """Names of columns, without the blanks about them."""
    return [name.strip() for name in next(csv.reader([line.strip("\ufeff\r\n")], delimiter=delimiter), [])]


def _encoding(path: Path, sample: bytes) -> str:
    """Raises ConfigError where the header is in none that is recognized."""
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = max(1, len(sample) // 2)
    # ASCII characters in UTF-16 have a zero as their other byte.
    if sample[1::2].count(0) > 0.4 * half:
        return "utf-16-le"
    if sample[::2].count(0) > 0.4 * half:
        return "utf-16-be"
    try:
        re.split(rb"[\r\n]", sample, maxsplit=1)[0].decode()
    except UnicodeDecodeError:
        raise ConfigError(
            "the header of the CSV file is neither UTF-8 nor UTF-16",
            where=str(path),
            hint='set input.encoding, such as --set input.encoding=cp1252, or "cp1250", "shift_jis", "gb18030"',
        ) from None
    return "utf-8-sig"


def _sample_lines(sample: bytes, encoding: str, *, whole: bool) -> list[str]:
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(sample)
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text.removeprefix("\ufeff"))
    return lines if whole else lines[:-1]


def _delimiter(line: str, wanted: CsvWanted, columns: Columns) -> tuple[str, list[str]]:
    """The one with which most of the columns are found, and the names that there are then."""
    signs = _DELIMITERS if wanted.delimiter == "auto" else (wanted.delimiter,)
    headers = {sign: header_of(line, sign) for sign in signs}
    best = max(signs, key=lambda sign: (len({*columns.all} & {*headers[sign]}), len(headers[sign]), -signs.index(sign)))
    return best, headers[best]


def _check_header(path: Path, header: list[str], columns: Columns) -> None:
    """Raises ConfigError."""
    # To erase customers, their ids are enough.
    needed = [columns.customer_id] if "erase" in header else list(columns.all)
    for name in columns.all:
        if header.count(name) > 1:
            raise ConfigError(
                f"the header of the CSV file has the column {name!r} {header.count(name)} times",
                where=str(path),
                hint="rename or remove the others, so that it is clear which one is meant",
            )
    missing = [name for name in needed if name not in header]
    if missing:
        name = missing[0]
        setting = setting_of(name, columns.customer_id, columns.event_time)
        likely = likely_name(name, [one for one in header if one not in columns.all], setting)
        hint = f"is it {likely!r}? Set {setting} = {likely!r}" if likely else f"set {setting} to the column that is meant"
        shown = ", ".join(map(repr, header[:20])) + (f" and {len(header) - 20} more" if len(header) > 20 else "")
        raise ConfigError(f"the CSV file has no column {name!r}; it has {shown}", where=str(path), hint=hint)


class _Way(NamedTuple):
    """A way to write numbers."""

    decimal: str
    thousands: str

    def reads(self, cell: str) -> bool:
        return _number_pattern(self.decimal, self.thousands).fullmatch(cell) is not None


@lru_cache
def _number_pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    sign = _GROUPS.get(thousands, "")
    # By thousands, or, as in India, by hundreds above them.
    groups = "" if thousands == "none" else rf"|[1-9]\d{{0,2}}({sign}\d{{3}})+|[1-9]\d?({sign}\d{{2}})+{sign}\d{{3}}"
    point = re.escape(decimal)
    return re.compile(rf"[+-]?((\d+{groups})({point}\d*)?|{point}\d+)([eE][+-]?\d+)?")


def _numbers(path: Path, cells: list[tuple[str, str]], delimiter: str, wanted: CsvWanted) -> tuple[str, str]:
    """Decimal sign, and that between thousands, by which most cells are numbers. Raises ConfigError where two are equal."""
    decimals = (".", ",") if wanted.decimal == "auto" else (wanted.decimal,)
    groups = ("none", ",", ".", " ", "'") if wanted.thousands == "auto" else (wanted.thousands,)
    ways = [_Way(decimal, group) for decimal in decimals for group in groups if decimal != group]
    if not ways:
        raise ConfigError("input.decimal and input.thousands are the same sign", where=str(path), hint="set one of them")
    # What no way of writing numbers reads says nothing of them.
    odd = [one for one in cells if not _PLAIN.fullmatch(one[1]) and any(way.reads(one[1]) for way in ways)]
    if len(ways) == 1:
        return ways[0]
    if not odd:
        # In a file with commas between columns a point is a decimal sign.
        if delimiter != "," and _Way(".", "none") in ways and _Way(",", ".") in ways:
            _check_groups(path, cells, ".")
        return next((way for way in ways if way == _Way(".", "none")), ways[0])
    read = {way: sum(way.reads(cell) for _, cell in cells) for way in ways}
    most = max(read.values())
    best = [way for way in ways if read[way] == most]
    if len({way.decimal for way in best}) > 1:
        _check_groups(path, odd, ",")
        return next(way for way in best if way.decimal == ",")
    return best[0]


def _check_groups(path: Path, cells: list[tuple[str, str]], sign: str) -> None:
    """Raises ConfigError where all signs stand before three digits: they may be decimal ones, or between thousands."""
    fractions = [one for one in cells if sign in one[1]]
    grouped = _number_pattern("," if sign == "." else ".", sign)
    if fractions and all(grouped.fullmatch(cell) for _, cell in fractions):
        name, cell = fractions[0]
        other = "," if sign == "." else "."
        raise ConfigError(
            f"the {_SIGNS[sign]} of {cell!r} in the column {name!r} may be a decimal sign, or one between thousands",
            where=str(path),
            hint=f'set input.decimal = "{sign}", or input.thousands = "{sign}" and input.decimal = "{other}"',
        )


def signed(cell: str) -> str:
    """A number with its sign before it: (1.50), 1.50- and a minus sign of typographers are negative, too."""
    cell = cell.replace("\u2212", "-")
    if len(cell) > 2 and cell[0] == "(" and cell[-1] == ")":
        return f"-{cell[1:-1]}"
    return f"-{cell[:-1]}" if len(cell) > 1 and cell[-1] == "-" and cell[0].isdigit() else cell


def number_in(cell: str, style: CsvFormat) -> int | float | None:
    """A number as the file writes them; None where it is not one."""
    cell = signed(cell)
    if not _number_pattern(style.decimal, style.thousands).fullmatch(cell):
        return None
    if style.thousands != "none":
        cell = re.sub(_GROUPS[style.thousands], "", cell)
    text = cell.replace(style.decimal, ".")
    return int(text) if text.lstrip("+-").isdigit() and len(text) < 300 else float(text)

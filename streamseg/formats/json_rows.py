"""JSON texts of many objects of one shape, from columns.

An object for each record costs more than its text. Here each field is either the same in all rows (bytes) or a column
of JSON texts, and a row is one join of what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

# A part of a row: the same bytes in every row, a column of texts, or several of these one after the other.
Part = bytes | list[bytes] | tuple["Part", ...]

NULL = b"null"
_ENCODE = msgspec.json.Encoder().encode
_DAY_US, _MINUTE_US, _SECOND_US = 86_400_000_000, 60_000_000, 1_000_000
_TABLE_REACH = 10_000
_TIME = np.dtype(
    [("open", "S1"), ("date", "S10"), ("minute", "S7"), ("second", "S3"), ("ms", "S3"), ("us", "S3"), ("close", "S2")]
)
_MINUTES = np.array([f"T{i // 60:02}:{i % 60:02}:".encode() for i in range(1440)])
_SECONDS = np.array([f"{i:02}.".encode() for i in range(60)])
_THOUSANDTHS = np.array([f"{i:03}".encode() for i in range(1000)])


def object_of(fields: Mapping[str, Part]) -> Part:
    """An object with these fields, in order."""
    return (b"{", members_of(fields), b"}")


def members_of(fields: Mapping[str, Part]) -> Part:
    """The inside of an object."""
    parts: list[Part] = []
    for i, (name, value) in enumerate(fields.items()):
        parts += [b"," * (i > 0) + _ENCODE(name) + b":", value]
    return tuple(parts)


def array_of(items: Sequence[Part]) -> Part:
    parts: list[Part] = []
    for i, item in enumerate(items):
        parts += [b"," * (i > 0), item]
    return (b"[", *parts, b"]")


def rows_of(part: Part, n_rows: int) -> list[bytes]:
    """The text of each row."""
    merged: list[bytes | list[bytes]] = [b""]
    _flatten(part, merged)
    columns: list[Iterable[bytes]] = [repeat(piece, n_rows) if isinstance(piece, bytes) else piece for piece in merged]
    return list(map(b"".join, zip(*columns, strict=True)))


def _flatten(part: Part, merged: list[bytes | list[bytes]]) -> None:
    """Append a part's pieces, joining neighbors that are the same in all rows."""
    if isinstance(part, tuple):
        for inner in part:
            _flatten(inner, merged)
        return
    last = merged[-1]
    if isinstance(part, bytes) and isinstance(last, bytes):
        merged[-1] = last + part
    else:
        merged.append(part)


def scalars(values: npt.NDArray[np.generic] | Sequence[float | bool | None]) -> list[bytes]:
    """Numbers, booleans or None; NaN is null."""
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return _ENCODE(listed)[1:-1].split(b",") if listed else []


_TABLE = np.array(scalars(np.arange(-_TABLE_REACH, _TABLE_REACH + 1) / 1000.0), dtype=object)


def thousandths(values: npt.NDArray[np.float64]) -> list[bytes]:
    """Numbers rounded to three decimals. From -10 to 10 their texts are looked up, not written."""
    # What is added makes -0.0 a 0.0.
    rounded = np.rint(values * 1000.0) + 0.0
    if len(rounded) and not (rounded.min() >= -_TABLE_REACH and rounded.max() <= _TABLE_REACH):
        return scalars(rounded / 1000.0)
    texts: list[bytes] = _TABLE[rounded.astype(np.int64) + _TABLE_REACH].tolist()
    return texts


def strings(values: Iterable[str | None]) -> list[bytes]:
    return list(map(_ENCODE, values))


def times(times_us: npt.NDArray[np.int64]) -> list[bytes]:
    """ISO 8601 in UTC with microseconds, quoted. Years 1 to 9999."""
    text = np.empty(len(times_us), dtype=_TIME)
    _write_times(text, times_us)
    texts: list[bytes] = text.view(f"S{_TIME.itemsize}").tolist()
    return texts


def time_members(columns: Mapping[str, npt.NDArray[np.int64]]) -> list[bytes]:
    """The members of an object whose values are all times: one text for each row instead of one for each time."""
    names = [b"," * (i > 0) + _ENCODE(name) + b":" for i, name in enumerate(columns)]
    fields: list[tuple[str, Any]] = []
    for i, name in enumerate(names):
        fields += [(f"name{i}", f"S{len(name)}"), (f"time{i}", _TIME)]
    text = np.empty(len(next(iter(columns.values()))), dtype=fields)
    for i, (name, column) in enumerate(zip(names, columns.values(), strict=True)):
        text[f"name{i}"] = name
        _write_times(text[f"time{i}"], column)
    texts: list[bytes] = text.view(f"S{text.dtype.itemsize}").tolist()
    return texts


def _write_times(text: npt.NDArray[np.void], times_us: npt.NDArray[np.int64]) -> None:
    text["open"], text["close"] = b'"', b'Z"'
    days, rest = _divided(times_us, _DAY_US)
    dates, which = np.unique(days, return_inverse=True)
    text["date"] = np.datetime_as_string(dates.astype("datetime64[D]")).astype("S10")[which]
    minutes, rest = _divided(rest, _MINUTE_US)
    text["minute"] = _MINUTES[minutes]
    seconds, rest = _divided(rest, _SECOND_US)
    text["second"] = _SECONDS[seconds]
    thousands, rest = _divided(rest, 1000)
    text["ms"], text["us"] = _THOUSANDTHS[thousands], _THOUSANDTHS[rest]


def _divided(values: npt.NDArray[np.int64], by: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    quotient = values // by
    return quotient, values - quotient * by

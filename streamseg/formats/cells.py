"""Cells of a record as JSON has them: what a customer's id, a number, a text and a flag may look like.

Producers quote numbers, write integers as floats (17850.0) and booleans as categories. What is read is what is meant, or the
record is a dead letter that says why.
"""

from __future__ import annotations

import math
import re
from typing import Any

from streamseg.errors import DeadLetterCode, RecordError

# Above it not every integer is a float, so that two customers may share one.
_EXACT_INTEGERS = 2**53
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NOT_FINITE = {"nan", "inf", "infinity"}


def id_of(cell: Any, field: str) -> str | int | None:
    """A customer's id: a text as it is written, or an integer, also one written as 17850.0. Raises RecordError."""
    if cell is None or isinstance(cell, str) or (isinstance(cell, int) and not isinstance(cell, bool)):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return int(_exact(cell, field))
    raise _wrong(cell, "an id: a text or an integer", field)


def event_id_of(cell: Any, field: str) -> str | None:
    """What two events have in common that are the same one. Raises RecordError."""
    return text_of(_exact(cell, field) if isinstance(cell, float) else cell, field)


def _exact(cell: float, field: str) -> float:
    """Raises RecordError."""
    if abs(cell) > _EXACT_INTEGERS:
        message = f"{cell!r} is a float beyond 2^53, which stands for several ids: send it as a text or an integer"
        raise RecordError(DeadLetterCode.WRONG_TYPE, message, field)
    return cell


def number_of(cell: Any, field: str) -> float | None:
    """Raises RecordError."""
    if cell is None or isinstance(cell, float):
        return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        return _finite(cell, cell, field)
    if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], str):
        message = f"{cell[0][:60]!r} is not written as the other numbers are (input.decimal, input.thousands)"
        raise RecordError(DeadLetterCode.WRONG_TYPE, message, field)
    if not isinstance(cell, str):
        raise _wrong(cell, "a number", field)
    text = cell.strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return _finite(text, cell, field)
    if text.lstrip("+-").lower() in _NOT_FINITE:
        raise RecordError(DeadLetterCode.NOT_FINITE, f"{text!r} is no measurement", field)
    hint = ""
    if re.search(r"\d,\d", text):
        hint = "; for numbers written so, set input.decimal and input.thousands of a CSV file"
    raise RecordError(DeadLetterCode.WRONG_TYPE, f"{text[:60]!r} is not a number{hint}", field)


def _finite(value: str | int, cell: Any, field: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        shown = f"{cell[:60]!r}" if isinstance(cell, str) else f"an integer of {cell.bit_length()} bits"
        raise RecordError(DeadLetterCode.NOT_FINITE, f"{shown} is above 1e100", field)
    return number


def text_of(cell: Any, field: str) -> str | None:
    """A category, or an id of an event: true is "true", and 3.0 is "3". Raises RecordError."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        if abs(cell) >= 10**4_000:
            raise _wrong("an integer of thousands of digits", "a text", field)
        return str(cell)
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) <= _EXACT_INTEGERS else repr(cell)
    raise _wrong(cell, "a text", field)


def flag_of(cell: Any, field: str) -> bool | None:
    """Raises RecordError."""
    if cell is None or isinstance(cell, bool):
        return cell
    if isinstance(cell, str) and cell.strip().lower() in ("", "true", "false"):
        return cell.strip().lower() == "true" if cell.strip() else None
    raise _wrong(cell, "true or false", field)


def _wrong(cell: Any, wanted: str, field: str) -> RecordError:
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a text", list: "an array", dict: "an object"}
    what = kinds.get(type(cell), type(cell).__name__)
    shown = (
        f"{str(cell).lower() if isinstance(cell, bool) else repr(cell)[:60]}, " if not isinstance(cell, list | dict) else ""
    )
    return RecordError(DeadLetterCode.WRONG_TYPE, f"expected {wanted}, got {shown}{what}", field)

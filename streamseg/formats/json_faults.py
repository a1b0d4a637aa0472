"""What is wrong with a record that is not JSON, or not of the shape that is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from streamseg.errors import DeadLetterCode, RecordError

# What a row of a table that has another number of cells than its header, or an open quote, is left as.
_NO_ROW = " (it is no JSON; of a table: its row has not as many cells as the header, or a quote is not closed)"
_BEGIN_JSON = (b"{", b"[", b"")


def parsed(decode: Callable[[bytes], Any], value: bytes) -> Any:
    """Raises RecordError where it is not JSON, ValidationError where it is of another shape."""
    try:
        return decode(value)
    except RecursionError:
        raise RecordError(DeadLetterCode.NOT_JSON, "the value is nested too deeply") from None
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(value, error) from None


def not_of_this_shape(decode: Callable[[bytes], Any], value: bytes, error: msgspec.ValidationError) -> RecordError:
    """`decode`: a value to whatever it holds."""
    where = re.search(r"`\$\.?([^`]*)`$", str(error))
    field = where[1] if where else ""
    if "out of range" in str(error):
        return RecordError(DeadLetterCode.NOT_FINITE, str(error), field)
    if not field:
        # What begins as JSON of another type may not go on so, as a row of a table does not.
        try:
            parsed(decode, value)
        except RecordError as other:
            return other
    return RecordError(DeadLetterCode.WRONG_TYPE if field else DeadLetterCode.NOT_AN_OBJECT, str(error), field)


def _malformed(value: bytes, error: Exception) -> RecordError:
    if "UTF-8" in str(error) or "utf-8" in str(error):
        return RecordError(DeadLetterCode.NOT_UTF8, "the value is not UTF-8")
    if "out of range" in str(error):
        return RecordError(DeadLetterCode.NOT_FINITE, str(error))
    constants: list[str] = []
    try:
        json.loads(value, parse_constant=constants.append)
    except UnicodeDecodeError:
        return RecordError(DeadLetterCode.NOT_UTF8, "the value is not UTF-8")
    except (ValueError, RecursionError):
        return RecordError(DeadLetterCode.NOT_JSON, f"{error}{_NO_ROW if value[:1] not in _BEGIN_JSON else ''}")
    if constants:
        return RecordError(DeadLetterCode.NOT_FINITE, f"{constants[0]} is no JSON and no measurement")
    return RecordError(DeadLetterCode.NOT_JSON, str(error))

"""The customer that a record's key names, by how the producer wrote it."""

from __future__ import annotations

from typing import Literal

import msgspec

from streamseg.errors import DeadLetterCode, RecordError
from streamseg.formats.cells import id_of
from streamseg.formats.wire import SchemaBook, framed

KeyFormat = Literal["string", "json", "long", "avro", "none"]
_LONG_BYTES = 8


def id_in_key(key: bytes | None, format: KeyFormat, field: str, book: SchemaBook) -> str | int:
    """Of a record without a value. `field`: path of the customer's id in events; `book`: schemas. Raises RecordError."""
    if not key or format == "none":
        raise RecordError(DeadLetterCode.MISSING_CUSTOMER_ID, "a null value without a key names nobody to erase")
    found = book_value(key, book) if format == "avro" else key_value(key, format)
    if isinstance(found, dict):
        found = _in_object(found, field)
    customer = id_of(found, field)
    if customer is None or customer == "":
        raise RecordError(DeadLetterCode.MISSING_CUSTOMER_ID, "the key of a null value names nobody to erase")
    return customer


def book_value(key: bytes, book: SchemaBook) -> object:
    """What a key that names its schema holds. Raises RecordError."""
    frame = framed(key)
    if frame is None:
        raise RecordError(DeadLetterCode.UNKNOWN_SCHEMA, "the key names no schema (input.key_format)")
    return book.read(key, frame)


def key_value(key: bytes, format: KeyFormat) -> object:
    """A key as its format has it: a text, a number, or of JSON any value. Raises RecordError."""
    if format == "long":
        if len(key) != _LONG_BYTES:
            message = f"the key has {len(key)} bytes, a long has {_LONG_BYTES} (input.key_format)"
            raise RecordError(DeadLetterCode.WRONG_TYPE, message)
        return int.from_bytes(key, "big", signed=True)
    if format == "json":
        try:
            return msgspec.json.decode(key)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RecordError(DeadLetterCode.NOT_JSON, "the key is not JSON (input.key_format)") from None
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise RecordError(DeadLetterCode.NOT_UTF8, "the key is not UTF-8 (input.key_format)") from None


def _in_object(found: dict[str, object], field: str) -> object:
    """The field that is called as in events, or the only one. Raises RecordError."""
    name = field.rpartition(".")[2]
    if name in found:
        return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    raise RecordError(DeadLetterCode.MISSING_CUSTOMER_ID, f"the key has no field {name!r}, and more than one")

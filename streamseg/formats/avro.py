"""Avro: payloads to objects and back. The only place that imports fastavro."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro

from streamseg.errors import DeadLetterCode, RecordError

Write = Callable[[Any], bytes]
_AS_IT_IS = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "enum"})


def reader_of(body: bytes, name: str, wanted: frozenset[str]) -> Callable[[bytes], Any]:
    """Reads payloads of a schema. `body`: of KnownSchema; `wanted`: the outermost fields that are read."""
    named: dict[str, Any] = {}
    schemas = [fastavro.parse_schema(one, named_schemas=named) for one in json.loads(body)]
    schema, read = schemas[-1], fastavro.schemaless_reader
    _check_bounded(schema, named, ())
    plain = _is_plain(schema, wanted)

    def reader(payload: bytes) -> Any:
        stream = BytesIO(payload)
        try:
            found = read(stream, schema, None)
        except Exception as error:  # noqa: BLE001 - of any kind, on bytes of any kind
            message = f"it is no Avro of {name}: {type(error).__name__} {error}".rstrip()
            raise RecordError(DeadLetterCode.NOT_OF_SCHEMA, message) from None
        left = len(payload) - stream.tell()
        if left:
            raise RecordError(DeadLetterCode.NOT_OF_SCHEMA, f"it is no Avro of {name}: {left} bytes are left over")
        if plain:
            return found
        if isinstance(found, dict):
            return {key: _as_json(value) for key, value in found.items() if key in wanted}
        return _as_json(found)

    return reader


def writer_of(body: bytes) -> Write:
    """Writes payloads of a schema. `body`: of KnownSchema."""
    schema = fastavro.parse_schema(json.loads(body)[-1])
    write = fastavro.schemaless_writer

    def writer(value: Any) -> bytes:
        stream = BytesIO()
        write(stream, schema, value)
        return stream.getvalue()

    return writer


def _check_bounded(kind: Any, named: dict[str, Any], within: tuple[str, ...]) -> None:
    """Raises ValueError where a few bytes may stand for a value of any depth or size, which would end the process."""
    if isinstance(kind, str) and kind in within:
        raise ValueError(f"{kind} holds itself, so its values may be nested without bound: such schemas are not read")
    if isinstance(kind, str):
        kind = named.get(kind, kind)
    if isinstance(kind, list):
        for each in kind:
            _check_bounded(each, named, within)
    elif isinstance(kind, dict):
        inside = (*within, str(kind["name"])) if "name" in kind else within
        for field in kind.get("fields", ()):
            _check_bounded(field["type"], named, inside)
        if isinstance(kind.get("type"), dict | list):
            _check_bounded(kind["type"], named, inside)
        if kind.get("type") == "array":
            if _takes_no_bytes(kind["items"], named):
                raise ValueError("an array of values without bytes may have any length: such schemas are not read")
            _check_bounded(kind["items"], named, inside)
        if kind.get("type") == "map":
            _check_bounded(kind["values"], named, inside)


def _takes_no_bytes(kind: Any, named: dict[str, Any]) -> bool:
    kind = named.get(kind, kind) if isinstance(kind, str) else kind
    if isinstance(kind, dict):
        if kind.get("type") == "record":
            return all(_takes_no_bytes(field["type"], named) for field in kind["fields"])
        return bool(kind.get("type") == "null" or (kind.get("type") == "fixed" and kind.get("size") == 0))
    return bool(kind == "null")


def _is_plain(schema: Any, wanted: frozenset[str]) -> bool:
    """Whether all that is wanted of a schema is read as JSON has it."""
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return _is_plain_type(schema)
    return all(_is_plain_type(field["type"]) for field in schema["fields"] if field["name"] in wanted)


def _is_plain_type(kind: Any) -> bool:
    if isinstance(kind, list):
        return all(map(_is_plain_type, kind))
    if isinstance(kind, dict):
        return "logicalType" not in kind and _is_plain_type(kind.get("type"))
    return kind in _AS_IT_IS


def _as_json(value: Any) -> Any:
    """A value as JSON and Parquet are read: texts for times, dates, bytes and UUIDs, numbers for decimals."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value) if isinstance(value, UUID) else value

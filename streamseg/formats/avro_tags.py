"""Tags in Avro, as a schema registry's readers know them: Confluent's framing, and a schema made from `Assignment`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from streamseg.errors import RecordError
from streamseg.formats.avro import Write, reader_of, writer_of
from streamseg.formats.outputs import Assignment, encode_json
from streamseg.formats.wire import ID_BYTES, head_of

_TIMES = ("entered_at", "event_time", "assigned_at")
_MICROSECONDS = {"type": "long", "logicalType": "timestamp-micros"}
_NAMESPACE = "streamseg"
# In front of a payload.
_HEAD = 1 + ID_BYTES


def tag_schema() -> dict[str, Any]:
    """Avro's schema of `Assignment`: its fields in their order, times as `timestamp-micros`."""
    schema: dict[str, Any] = _avro_of(inspect.type_info(Assignment))
    for field in schema["fields"]:
        if field["name"] in _TIMES:
            field["type"] = ["null", _MICROSECONDS] if isinstance(field["type"], list) else _MICROSECONDS
    return schema | {"doc": "A customer's segment, as published for an event or by a sweep."}


def written_under(topic: str) -> dict[str, bytes]:
    """By subject, the schemas of the keys and the values of a topic of tags, as `KnownSchema` has them."""
    return {f"{topic}-{part}": _body(schema) for part, schema in (("key", "string"), ("value", tag_schema()))}


def _body(schema: Any) -> bytes:
    return json.dumps([schema], separators=(",", ":")).encode()


def _avro_of(kind: inspect.Type) -> Any:
    """Raises TypeError for a type that no tag has."""
    match kind:
        case inspect.StrType():
            return "string"
        case inspect.IntType():
            return "long"
        case inspect.FloatType():
            return "double"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.ListType():
            return {"type": "array", "items": _avro_of(kind.item_type)}
        case inspect.UnionType():
            return sorted(map(_avro_of, kind.types), key=lambda one: one != "null")
        case inspect.StructType():
            fields = [{"name": field.name, "type": _avro_of(field.type)} for field in kind.fields]
            for field in fields:
                if isinstance(field["type"], list):
                    field["default"] = None
            return {"type": "record", "name": kind.cls.__name__, "namespace": _NAMESPACE, "fields": fields}
    raise TypeError(f"Avro has no {kind}")


@cache
def _writers() -> tuple[Write, Write]:
    """Of keys and values."""
    return writer_of(_body("string")), writer_of(_body(tag_schema()))


def keys_in_avro(ids: Iterable[str], schema_id: bytes) -> list[bytes]:
    """Customers' ids as keys."""
    head, write = head_of(schema_id), _writers()[0]
    return [head + write(one) for one in ids]


def tags_in_avro(values: Iterable[bytes | None], schema_id: bytes) -> list[bytes | None]:
    """Tags that are JSON; what erases stays None."""
    head, write, read = head_of(schema_id), _writers()[1], msgspec.json.Decoder().decode
    out: list[bytes | None] = []
    for value in values:
        if value is None:
            out.append(None)
            continue
        tag = read(value)
        for name in _TIMES:
            if tag[name] is not None:
                tag[name] = datetime.fromisoformat(tag[name])
        out.append(head + write(tag))
    return out


def tag_as_json(value: bytes) -> bytes:
    """A tag in Avro as the job made it; what is none, as it is."""
    try:
        tag = _reader()(value[_HEAD:])
    except RecordError:
        return value
    for name in _TIMES:
        if tag[name] is not None:
            tag[name] = tag[name].isoformat(timespec="microseconds").replace("+00:00", "Z")
    return encode_json(tag)


@cache
def _reader() -> Callable[[bytes], Any]:
    # No field of these names is looked into: what is not wanted stays as Avro has it.
    return reader_of(_body(tag_schema()), "the tags' schema", frozenset())

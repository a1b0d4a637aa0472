"""JSON Schemas of the records, made from the classes that encode and decode them."""

from __future__ import annotations

from typing import Any

import msgspec

from streamseg.records.events import EventFields
from streamseg.records.outputs import Assignment, DeadLetterLine, SegmentRecord

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def assignment_schema() -> dict[str, Any]:
    return _closed(Assignment, "A customer's segment, as published for an event or by a sweep.")


def segment_schema() -> dict[str, Any]:
    return _closed(SegmentRecord, "What a segment is; keyed by its id.")


def dead_letter_schema() -> dict[str, Any]:
    return _closed(DeadLetterLine, "An input record that could not be used, as a line of a file.")


def _closed(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """All fields are always there, and no others."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for definition in components.values():
        if "properties" in definition:
            definition["required"] = list(definition["properties"])
            definition["additionalProperties"] = False
            for field in definition["properties"].values():
                field.pop("default", None)
    return {"$schema": _DIALECT, "title": title, **schema, "$defs": components}


def event_schema(fields: EventFields) -> dict[str, Any]:
    """The event that a configuration reads: other fields are ignored."""
    number = {"type": ["number", "null"], "minimum": -1e100, "maximum": 1e100}
    schema: dict[str, Any] = {
        "$schema": _DIALECT,
        "title": "An event about one customer.",
        "type": "object",
        "properties": {},
        "required": [],
    }
    _put(schema, fields.customer_id, {"type": ["string", "integer"], "minLength": 1, "maxLength": 4096}, required=True)
    time = {
        "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}],
        "description": "ISO 8601 (UTC where no offset is given), or milliseconds since 1970; default: the record's time",
    }
    _put(schema, fields.event_time, time)
    _put(schema, "event_id", {"type": ["string", "integer", "null"]})
    _put(schema, "erase", {"type": ["boolean", "null"], "description": "true erases the customer"})
    for path in fields.numbers:
        _put(schema, path, number)
    for path in fields.texts:
        _put(schema, path, {"type": ["string", "integer", "null"]})
    return schema


def _put(schema: dict[str, Any], path: str, value: dict[str, Any], *, required: bool = False) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if required:
            schema.setdefault("required", []).append(name)
        kinds: dict[str, Any] = {"type": ["object", "null"], "properties": {}}
        schema = schema["properties"].setdefault(name, kinds)
    schema["properties"][leaf] = value
    if required:
        schema.setdefault("required", []).append(leaf)

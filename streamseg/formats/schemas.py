"""JSON Schemas of the records, made from the classes that encode and decode them."""

from __future__ import annotations

from typing import Any

import msgspec

from streamseg.formats.events import EventFields
from streamseg.formats.outputs import Assignment, DeadLetterLine, SegmentRecord
from streamseg.formats.times import TimeRules

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
    number = {
        "type": ["number", "string", "null"],
        "minimum": -1e100,
        "maximum": 1e100,
        "pattern": r"^\s*([+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)?\s*$",
    }
    schema: dict[str, Any] = {
        "$schema": _DIALECT,
        "title": "An event about one customer.",
        "type": "object",
        "properties": {},
        "required": [],
    }
    # An integer may be written as 17850.0.
    identity = {"type": ["string", "integer"], "minLength": 1, "maxLength": 4096}
    _put(schema, fields.customer_id, identity, required=True)
    time = {
        "type": ["string", "number", "null"],
        "description": _time_in_words(fields.times),
    }
    _put(schema, fields.event_time, time)
    _put(schema, "event_id", {"type": ["string", "number", "boolean", "null"]})
    _put(schema, "erase", {"enum": [True, False, None, "true", "false"], "description": "true erases the customer"})
    for path in fields.numbers:
        _put(schema, path, number)
    for path in fields.texts:
        _put(schema, path, {"type": ["string", "number", "boolean", "null"]})
    return schema


def _time_in_words(rules: TimeRules) -> str:
    text = "ISO 8601" if rules.format is None else f"of the format {rules.format}"
    unit = "seconds, milli-, micro- or nanoseconds, by its size" if rules.unit == "auto" else rules.unit
    text += f" ({rules.zone} where no offset is given)"
    return f"a text, {text}, or a number since 1970 ({unit}); default: the record's time"


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

"""What is published, and its schemas."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.engine.ports import Topic
from streamseg.formats.json_rows import array_of, object_of, rows_of, scalars, strings, thousandths, times
from streamseg.formats.outputs import Assignment, DeadLetter, dead_letter_line, decode_assignment, iso_time
from streamseg.formats.schemas import assignment_schema, dead_letter_schema, segment_schema
from tests.harness import BAD, event, letters, published, run_memory, settings_for, shoppers


@given(st.lists(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999), min_size=1, max_size=20))
def test_times_are_written_as_numpy_writes_them(values: list[int]) -> None:
    array = np.array(values)
    expected = np.datetime_as_string(array.astype("datetime64[us]"), unit="us", timezone="UTC").tolist()
    assert [json.loads(text) for text in times(array)] == expected
    assert iso_time(values[0]) == expected[0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_thousandths_are_rounded_numbers(values: list[float]) -> None:
    for array in (np.array(values), np.clip(np.array(values), -9.0, 9.0)):
        assert [json.loads(text) for text in thousandths(array)] == pytest.approx(array.tolist(), abs=5.1e-4)


@given(st.lists(st.tuples(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_rows_are_the_json_of_their_columns(rows: list[tuple[str, float | None]]) -> None:
    names, numbers = zip(*rows, strict=True)
    part = object_of({"a": b"1", "name": strings(names), "b": array_of([scalars(list(numbers)), b"null"])})
    expected = [{"a": 1, "name": name, "b": [number, None]} for name, number in rows]
    assert [msgspec.json.decode(text) for text in rows_of(part, len(rows))] == expected


def test_assignments_are_what_their_class_encodes_and_what_their_schema_says() -> None:
    job = settings_for(model={"segments": 3, "warm_up": 20})
    store, _ = run_memory(
        [*shoppers(1_200), event('q"\\u00e9\u00e9,', 3e4, age=30.0, income=1.0, purchases=1.0)], job, batch_records=50
    )
    validator = jsonschema.Draft202012Validator(assignment_schema())
    values = [value for value in published(store, Topic.ASSIGNMENTS) if value is not None]
    assert {decode_assignment(value).reason for value in values} >= {"warming_up", "event", "model_update"}
    for value in values:
        assert msgspec.json.encode(decode_assignment(value)) == value
        validator.validate(json.loads(value))
    assert list(json.loads(values[0])) == list(Assignment.__struct_fields__)


def test_catalog_records_and_dead_letters_are_what_their_schemas_say() -> None:
    store, _ = run_memory([*BAD, *shoppers(100)], settings_for(model={"segments": 3, "warm_up": 20}))
    for value in published(store, Topic.CATALOG):
        assert value is not None
        jsonschema.validate(json.loads(value), segment_schema())
    assert len(letters(store)) == len(BAD)
    for letter in letters(store):
        jsonschema.validate(letter, dead_letter_schema())


def test_a_dead_letter_keeps_bytes_that_are_no_text() -> None:
    letter = DeadLetter(b"k", b"\xff\xfe", "not_utf8", "why", "t", 1, 2, "f")
    line = json.loads(dead_letter_line(letter))
    assert line["value"] is None
    assert line["value_base64"] == "//4="
    assert dict(letter.headers())["streamseg.error.offset"] == b"2"


def test_the_schemas_are_schemas() -> None:
    for schema in (assignment_schema(), segment_schema(), dead_letter_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)

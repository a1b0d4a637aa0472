"""Events to columns: every wrong input has its code, and costs nobody else anything."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import DeadLetterCode
from streamseg.formats.events import Decoded, EventDecoder, EventFields, Rejected
from streamseg.formats.schemas import event_schema

NOW_US = 1_800_000_000_000_000
FIELDS = EventFields(numbers=("age", "basket.total"), texts=("plan",))
GOOD = b'{"customer_id":"good","event_time":1700000000000,"age":30}'


def decode(*values: bytes | None, keys: list[bytes | None] | None = None, timestamp: int | None = None,
           max_bytes: int = 1_000_000) -> tuple[Decoded, list[Rejected]]:  # fmt: skip
    decoder = EventDecoder(FIELDS, max_bytes)
    return decoder.decode(keys or [None] * len(values), list(values), [timestamp] * len(values), NOW_US)


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (b"{broken", DeadLetterCode.NOT_JSON, ""),
        (b"", DeadLetterCode.NOT_JSON, ""),
        (b"[1,2]", DeadLetterCode.NOT_AN_OBJECT, ""),
        (b"7", DeadLetterCode.NOT_AN_OBJECT, ""),
        (b"null", DeadLetterCode.NOT_AN_OBJECT, ""),
        (b'{"event_time":1700000000000}', DeadLetterCode.MISSING_CUSTOMER_ID, "customer_id"),
        (b'{"customer_id":"","event_time":1700000000000}', DeadLetterCode.MISSING_CUSTOMER_ID, "customer_id"),
        (b'{"customer_id":null,"event_time":1700000000000}', DeadLetterCode.MISSING_CUSTOMER_ID, "customer_id"),
        (b'{"customer_id":1.5,"event_time":1700000000000}', DeadLetterCode.WRONG_TYPE, "customer_id"),
        (b'{"customer_id":"c","event_time":1700000000000,"x":"\\ud800"}x', DeadLetterCode.NOT_JSON, ""),
        (b'\xef\xbb\xbf{"customer_id":"c"}', DeadLetterCode.NOT_JSON, ""),
        (b'{"customer_id":"c","event_time":1700000000000,"age":"old"}', DeadLetterCode.WRONG_TYPE, "age"),
        (b'{"customer_id":"c","event_time":1700000000000,"age":true}', DeadLetterCode.WRONG_TYPE, "age"),
        (b'{"customer_id":"c","event_time":1700000000000,"basket":3}', DeadLetterCode.WRONG_TYPE, "basket"),
        (b'{"customer_id":"c","event_time":1700000000000,"basket":{"total":[]}}', DeadLetterCode.WRONG_TYPE, "basket.total"),
        (b'{"customer_id":"c","event_time":1700000000000,"plan":{}}', DeadLetterCode.WRONG_TYPE, "plan"),
        (b'{"customer_id":"c","event_time":"tomorrow, age 3","age":"x"}', DeadLetterCode.WRONG_TYPE, "age"),
        (b'{"customer_id":"c","event_time":1700000000000,"age":NaN}', DeadLetterCode.NOT_FINITE, ""),
        (b'{"customer_id":"c","event_time":1700000000000,"age":Infinity}', DeadLetterCode.NOT_FINITE, ""),
        (b'{"customer_id":"c","event_time":1700000000000,"age":1e308}', DeadLetterCode.NOT_FINITE, "age"),
        (b'{"customer_id":"c","event_time":1700000000000,"age":-1e101}', DeadLetterCode.NOT_FINITE, "age"),
        (b'{"customer_id":"c","event_time":1700000000000,"age":1e999}', DeadLetterCode.NOT_FINITE, ""),
        (b'{"customer_id":"c","event_time":"soon"}', DeadLetterCode.BAD_TIME, "event_time"),
        (b'{"customer_id":"c","event_time":true}', DeadLetterCode.BAD_TIME, "event_time"),
        (b'{"customer_id":"c","event_time":-9e16}', DeadLetterCode.BAD_TIME, "event_time"),
        (b'{"customer_id":"c","event_time":1800003600001}', DeadLetterCode.FUTURE_TIME, "event_time"),
        (b'{"customer_id":"c","event_time":1e300}', DeadLetterCode.BAD_TIME, "event_time"),
        (b'{"customer_id":"c"}', DeadLetterCode.MISSING_TIME, "event_time"),
        (b'{"customer_id":"\xff","event_time":1700000000000}', DeadLetterCode.NOT_UTF8, ""),
        (b'{"customer_id":"' + b"c" * 5000 + b'","event_time":1700000000000}', DeadLetterCode.TOO_LARGE, "customer_id"),
        (b'{"customer_id":"c","event_time":1700000000000,"x":"' + b"y" * 1_000_000 + b'"}', DeadLetterCode.TOO_LARGE, ""),
        (
            b'{"customer_id":"c","event_time":1700000000000,"z":' + b"[" * 5000 + b"]" * 5000 + b"}",
            DeadLetterCode.NOT_JSON,
            "",
        ),
        (None, DeadLetterCode.MISSING_CUSTOMER_ID, ""),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_record_has_its_code_and_loses_nothing_else(value: bytes | None, code: DeadLetterCode, field: str) -> None:
    decoded, rejected = decode(GOOD, value, GOOD)
    assert decoded.ids == ["good", "good"]
    assert decoded.at.tolist() == [0, 2]
    assert [(r.at, r.error.code) for r in rejected] == [(1, code)]
    if code is not DeadLetterCode.NOT_FINITE:
        assert rejected[0].error.field == field
    assert rejected[0].error.message


@pytest.mark.parametrize(
    ("time", "expected_us"),
    [
        ('"2023-11-14T22:13:20Z"', 1_700_000_000_000_000),
        ('"2023-11-14T22:13:20"', 1_700_000_000_000_000),
        ('"2023-11-14 22:13:20"', 1_700_000_000_000_000),
        ('"2023-11-14T23:13:20+01:00"', 1_700_000_000_000_000),
        ('"2023-11-14T22:13:20.123456Z"', 1_700_000_000_123_456),
        ('"2023-11-14"', 1_699_920_000_000_000),
        ("1700000000000", 1_700_000_000_000_000),
        ("1700000000000.5", 1_700_000_000_000_500),
    ],
)
def test_times_are_iso_8601_or_epoch_milliseconds(time: str, expected_us: int) -> None:
    for others in ((), (GOOD,)):
        decoded, rejected = decode(f'{{"customer_id":"c","event_time":{time}}}'.encode(), *others)
        assert rejected == []
        assert decoded.times[0] == expected_us


def test_the_record_s_timestamp_stands_in_for_a_missing_time() -> None:
    decoded, _ = decode(b'{"customer_id":"c"}', timestamp=1_700_000_000_000)
    assert decoded.times.tolist() == [1_700_000_000_000_000]


def test_integers_are_ids_and_nested_paths_reach_fields() -> None:
    decoded, rejected = decode(
        b'{"customer_id":718,"event_time":17e11,"basket":{"total":2,"x":1},"plan":"gold","event_id":9}'
    )
    assert rejected == []
    assert decoded.ids == ["718"]
    assert decoded.numbers["basket.total"].tolist() == [2.0]
    assert np.isnan(decoded.numbers["age"][0])
    assert decoded.texts == {"plan": ["gold"]}
    assert decoded.event_ids == ["9"]


def test_a_null_value_under_a_key_erases_and_so_does_a_flag() -> None:
    decoded, rejected = decode(None, b'{"customer_id":"d","erase":true}', GOOD, keys=[b"c", None, None])
    assert rejected == []
    assert decoded.ids == ["c", "d", "good"]
    assert decoded.erase.tolist() == [True, True, False]


def test_a_null_parent_is_a_missing_field() -> None:
    decoded, _ = decode(b'{"customer_id":"c","event_time":1700000000000,"basket":null}')
    assert np.isnan(decoded.numbers["basket.total"][0])


NAMES = st.sampled_from(["customer_id", "event_time", "age", "basket", "total", "plan", "erase"])
SCALARS = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers()
JSON = st.recursive(SCALARS, lambda inner: st.dictionaries(NAMES, inner), max_leaves=6)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b'{"event_time": false, "customer_id": Infinity}', "not_finite"),
        (b'{"event_time": false, "customer_id": "\xff"}', "not_utf8"),
        (b'{"event_time": false, "a": ' + b"[" * 100_000, "not_json"),
        (b"1,2", "not_json"),
        (b"1,2,\xe9", "not_utf8"),
        (b"1", "not_an_object"),
        (b'"c100,100,1', "not_json"),
    ],
    ids=["no json", "no utf-8", "too deep", "a row", "a row of latin-1", "a number", "an open quote"],
)
def test_what_is_broken_behind_a_wrong_type_is_a_dead_letter(value: bytes, code: str) -> None:
    _, rejected = decode(value)
    assert [reject.error.code for reject in rejected] == [code]


@given(st.lists(st.binary(max_size=40) | st.just(GOOD) | JSON.map(lambda v: json.dumps(v).encode()), max_size=20))
def test_every_record_is_accepted_or_rejected_never_both_and_nothing_else_happens(values: list[bytes]) -> None:
    decoded, rejected = decode(*values)
    assert sorted([*decoded.at.tolist(), *(r.at for r in rejected)]) == list(range(len(values)))
    assert all(np.isnan(column).any() or (np.abs(column) <= 1e100).all() for column in decoded.numbers.values())


@pytest.mark.parametrize("value", [GOOD, b'{"customer_id":718}', b'{"customer_id":"c","basket":{"total":1.5},"plan":null}'])
def test_what_the_schema_allows_is_accepted(value: bytes) -> None:
    schema: dict[str, Any] = event_schema(FIELDS)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(value), schema)
    assert decode(value, timestamp=1_700_000_000_000)[1] == []


@pytest.mark.parametrize("value", [b'{"event_time":17e11}', b'{"customer_id":""}', b'{"customer_id":"c","age":"x"}', b"[]"])
def test_what_the_schema_forbids_is_rejected(value: bytes) -> None:
    assert list(jsonschema.Draft202012Validator(event_schema(FIELDS)).iter_errors(json.loads(value)))
    assert len(decode(value, timestamp=1_700_000_000_000)[1]) == 1


@pytest.mark.parametrize(
    "extra", ['"event_time":"2099-01-01T00:00:00Z"', '"event_time":"soon"', '"age":"n/a"', '"age":1e200']
)
def test_for_an_erasure_the_id_is_enough(extra: str) -> None:
    decoded, rejected = decode(f'{{"customer_id":"c","erase":true,{extra}}}'.encode(), GOOD)
    assert rejected == []
    assert decoded.ids == ["c", "good"]
    assert decoded.erase.tolist() == [True, False]

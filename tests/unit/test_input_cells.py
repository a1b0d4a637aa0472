"""Cells and times of JSON as producers write them, and where in a record they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.application.wiring import source_of
from streamseg.errors import ConfigError, RecordError
from streamseg.formats.times import TimeRules, microseconds, time_of
from tests.inputs import JAN_1_10H, config, table, times


def test_a_name_with_a_dot_is_found_before_it_is_nesting(tmp_path: Path) -> None:
    given = config([{"name": "age", "field": "traits.age"}], customer_id="user.id")
    content = "user.id,event_time,traits.age\n7,2024-01-01,30\n"
    lines = [
        {"user.id": 7, "event_time": "2024-01-01", "traits.age": 30},
        {"user": {"id": 7}, "event_time": "2024-01-01", "traits": {"age": 30}},
        {"user": {"id": 7}, "event_time": "2024-01-01", "traits": {"age": "30"}},
        {"user": {"id": 7.0}, "event_time": "2024-01-01", "traits.age": 30, "traits": []},
    ]
    as_lines = "".join(json.dumps(line) + "\n" for line in lines)
    for decoded, rejected in (table(tmp_path, content, given), table(tmp_path, as_lines, given, "e.jsonl")):
        assert rejected == []
        assert set(decoded.ids) == {"7"}
        assert set(decoded.numbers["traits.age"].tolist()) == {30.0}


@pytest.mark.parametrize(
    ("cells", "customer", "age", "plan"),
    [
        ('"customer_id":17850.0,"age":"20000.50","plan":true', "17850", 20000.5, "true"),
        ('"customer_id":"17850.0","age":" 7 ","plan":false', "17850.0", 7.0, "false"),
        ('"customer_id":"007","age":"","plan":3.0', "007", np.nan, "3"),
        ('"customer_id":9007199254740993,"age":"1e3","plan":2.5', "9007199254740993", 1000.0, "2.5"),
        ('"customer_id":-5.0,"age":null,"plan":7', "-5", np.nan, "7"),
    ],
)
def test_cells_of_json_are_what_they_mean(tmp_path: Path, cells: str, customer: str, age: float, plan: str) -> None:
    given = config([{"name": "age"}, {"name": "plan", "one_hot": ["true", "false"]}])
    line = f'{{{cells},"event_time":"2024-01-01"}}\n'
    decoded, rejected = table(tmp_path, line, given, "e.jsonl")
    assert rejected == []
    assert decoded.ids == [customer]
    assert decoded.numbers["age"].tolist() == pytest.approx([age], nan_ok=True)
    assert decoded.texts["plan"] == [plan]


@pytest.mark.parametrize(
    ("cells", "code", "field"),
    [
        ('"customer_id":1e17,"event_time":"2024-01-01"', "wrong_type", "customer_id"),
        ('"customer_id":true,"event_time":"2024-01-01"', "wrong_type", "customer_id"),
        ('"customer_id":1,"event_time":"2024-01-01","age":"NaN"', "not_finite", "age"),
        ('"customer_id":1,"event_time":"2024-01-01","age":"1_000"', "wrong_type", "age"),
        ('"customer_id":1,"event_time":"2024-01-01","age":"20,433.50"', "wrong_type", "age"),
        ('"customer_id":1,"event_time":"2024-01-01","age":"1e999"', "not_finite", "age"),
        ('"customer_id":1,"event_time":3600', "implausible_time", "event_time"),
        ('"customer_id":1,"event_time":"1706-01-01"', "implausible_time", "event_time"),
        ('"customer_id":1,"event_time":"05/02/2024"', "bad_time", "event_time"),
        ('"customer_id":1,"event_time":4102444800', "future_time", "event_time"),
        ('"customer_id":1,"event_time":"2024-01-01","erase":1', "wrong_type", "erase"),
        ('"customer_id":1,"event_time":"2024-01-01","event_id":1e17', "wrong_type", "event_id"),
        ('"customer_id":1,"event_time":1' + "0" * 310, "bad_time", "event_time"),
        ('"customer_id":1,"event_time":1' + "0" * 9_999, "not_finite", "event_time"),
        ('"customer_id":1,"event_time":"2024-01-01","age":1' + "0" * 9_999, "not_finite", "age"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_cells_that_may_mean_two_things_are_dead_letters(tmp_path: Path, cells: str, code: str, field: str) -> None:
    good = '{"customer_id":2,"event_time":"2024-01-01","age":1,"spend":2}\n'
    decoded, rejected = table(tmp_path, good + f"{{{cells}}}\n" + good, config(), "e.jsonl")
    assert decoded.ids == ["2", "2"]
    assert [(one.at, one.error.code) for one in rejected] == [(1, code)]
    assert rejected[0].error.field in (field, "")


@pytest.mark.parametrize("value", ["1704103200", '"1704103200"', "1704103200000", '"1704103200000"', "1704103200000000",
    "1704103200000000000", '"20240101T100000Z"', "20240101100000", '"20240101100000"', '"2024-01-01 10:00"',
    '"2024-01-01T11:00:00+01:00"', '"1704103200.0"', "1704103200.0"])  # fmt: skip
def test_a_time_has_the_unit_that_its_size_says(tmp_path: Path, value: str) -> None:
    decoded, rejected = table(tmp_path, f'{{"customer_id":1,"event_time":{value}}}\n', config(), "e.jsonl")
    assert rejected == []
    assert times(decoded) == [JAN_1_10H]


@pytest.mark.parametrize(
    ("value", "day"), [("20240131", "2024-01-31"), ('"20240131"', "2024-01-31"), ('"2024-01-31"', "2024-01-31")]
)
def test_a_day_begins_at_midnight_of_its_zone(tmp_path: Path, value: str, day: str) -> None:
    line = f'{{"customer_id":1,"event_time":{value}}}\n'
    assert times(table(tmp_path, line, config(), "e.jsonl")[0]) == [f"{day}T00:00:00"]
    assert times(table(tmp_path, line, config(time_zone="Asia/Tokyo"), "e.jsonl")[0]) == ["2024-01-30T15:00:00"]


@given(st.floats(631_152_000, 1_800_000_000), st.sampled_from(["s", "ms", "us", "ns"]))
def test_the_unit_that_is_found_is_the_one_that_was_written(seconds: float, unit: str) -> None:
    scale = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    value = int(seconds * scale)
    if value in range(19_000_101, 22_001_232):
        return
    found, said = microseconds([value], TimeRules()), microseconds([value], TimeRules(unit=unit))  # type: ignore[arg-type]
    assert found[0] == said[0] == pytest.approx(value / scale * 1e6, abs=1.0)


@given(st.datetimes(pd.Timestamp("1990-01-01").to_pydatetime(), pd.Timestamp("2100-01-01").to_pydatetime()))
def test_times_agree_with_pandas(when: Any) -> None:
    text = when.isoformat(sep=" ")
    read = time_of(text, TimeRules(), "event_time")
    assert microseconds([read], TimeRules())[0] == pytest.approx(pd.Timestamp(text).value / 1e3, abs=0.5)


def test_texts_that_are_no_time_of_a_format_say_which() -> None:
    with pytest.raises(RecordError, match="%d/%m/%Y"):
        time_of("2024-01-31", TimeRules(format="%d/%m/%Y"), "event_time")


@pytest.mark.parametrize("name", ["customer_id", "event_time", "event_id", "erase"])
def test_conditions_on_what_every_event_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is in every event"):
        config(where={name: {"exists": True}})


@pytest.mark.parametrize(
    ("content", "to_do"),
    [
        (b'[{"customer_id":1},\n{"customer_id":2}]', "jq -c '.[]'"),
        (b'{\n "customer_id": 1\n}\n', "jq -c ."),
        (b'{"a":1}\r{"a":2}\r', "tr"),
    ],
)
def test_json_that_is_not_in_lines_is_refused_with_how_to_convert_it(tmp_path: Path, content: bytes, to_do: str) -> None:
    (tmp_path / "e.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match="one JSON object on each line") as refused:
        source_of(config(), tmp_path / "e.jsonl").settle(None)
    assert to_do in refused.value.hint


def test_a_field_of_the_payload_does_not_hide_what_the_envelope_says(tmp_path: Path) -> None:
    line = {"type": "track", "userId": "a", "timestamp": "2024-01-01T00:00:00Z", "properties": {"type": "online", "age": 3}}
    given = config([{"name": "age"}], preset="segment", where={"type": "track"})
    decoded, _ = table(tmp_path, json.dumps(line) + "\n", given, "e.jsonl")
    assert decoded.ids == ["a"]

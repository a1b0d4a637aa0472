"""Tables as exports write them: from the bytes of a file to the columns of events."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import ConfigError
from streamseg.transports.csv_file import CsvSource
from streamseg.transports.csv_format import Columns, CsvFormat, CsvWanted, found_format, number_in
from tests.inputs import JAN_1_10H, config, events, table, times

PLAIN = "customer_id,event_time,age,spend\n7,2024-01-01T10:00:00Z,30,1234.5\n8,2024-01-01T10:00:00Z,31,20433.5\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        codecs.BOM_UTF8 + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", ";").replace(".5", ",5"),
        PLAIN.replace(",", ";").replace("1234.5", "1.234,5").replace("20433.5", "20.433,5"),
        PLAIN.replace(",", ";").replace("1234.5", "1 234,5").replace("20433.5", "20\u00a0433,5"),
        PLAIN.replace(",", ";").replace("1234.5", "1'234.5").replace("20433.5", "20\u2019433.5"),
        PLAIN.replace("1234.5", '"1,234.5"').replace("20433.5", '"20,433.50"'),
        PLAIN.replace("1234.5", '"1234,5"').replace("20433.5", '"20433,5"'),
        PLAIN.replace("customer_id,event_time", " customer_id , event_time"),
        PLAIN.replace("event_time", '"event_time"').replace("7,", "7.0,").replace("8,", "8.00,"),
        PLAIN.removesuffix("\n"),
        PLAIN.replace("2024-01-01T10:00:00Z", "1704103200"),
        PLAIN.replace("2024-01-01T10:00:00Z", "1704103200000"),
        PLAIN.replace("2024-01-01T10:00:00Z", "20240101100000"),
    ],
    ids=lambda content: repr(content[34:70]),
)
def test_an_export_says_the_same_however_it_is_written(tmp_path: Path, content: bytes | str) -> None:
    decoded, rejected = table(tmp_path, content, config())
    assert rejected == []
    assert decoded.ids == ["7", "8"]
    assert times(decoded) == [JAN_1_10H] * 2
    assert decoded.numbers["age"].tolist() == [30.0, 31.0]
    assert decoded.numbers["spend"].tolist() == [1234.5, 20433.5]


@pytest.mark.parametrize(
    ("content", "said", "to_do"),
    [
        ("customer_id,event_time,age,spend,age\n1,1,1,1,1\n", "'age' 2 times", "rename or remove"),
        ("customer_id,event_time,age,spend,customer_id\n1,1,1,1,1\n", "'customer_id' 2 times", "rename or remove"),
        ("user_id,event_time,age,spend\n1,1,1,1\n", "no column 'customer_id'; it has 'user_id'", "is it 'user_id'?"),
        ("CustomerID,event_time,age,spend\n1,1,1,1\n", "no column 'customer_id'", "is it 'CustomerID'?"),
        ("customer_id,InvoiceDate,age,spend\n1,1,1,1\n", "no column 'event_time'", "is it 'InvoiceDate'?"),
        ("customer_id,event_time,age,Spent\n1,1,1,1\n", "no column 'spend'", "is it 'Spent'?"),
        ("a:b:c\n1:2:3\n", "no column 'customer_id'; it has 'a:b:c'", "set input.customer_id"),
        ('customer_id,event_time,age,spend\n1,1,1,"20,433"\n', "the comma of '20,433'", "input.thousands"),
        ("customer_id,event_time,age,spend,na\u00efve\n".encode("latin-1"), "neither UTF-8 nor UTF-16", "input.encoding"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_is_refused_before_it_is_read(tmp_path: Path, content: bytes | str, said: str, to_do: str) -> None:
    with pytest.raises(ConfigError) as refused:
        table(tmp_path, content, config())
    assert said in refused.value.message
    assert to_do in refused.value.hint


def test_settings_say_what_cannot_be_found(tmp_path: Path) -> None:
    text = 'customer_id,event_time,age,spend,naïve\n1,05/02/2024 10:00,1,"20,433",é\n'
    given = config(encoding="cp1252", thousands=",", time_format="%d/%m/%Y %H:%M", time_zone="Europe/Berlin")
    decoded, rejected = table(tmp_path, text.encode("cp1252"), given)
    assert rejected == []
    assert decoded.numbers["spend"].tolist() == [20433.0]
    assert times(decoded) == ["2024-02-05T09:00:00"]
    decoded, _ = table(tmp_path, text.encode("cp1252"), given.model_copy(update={"input": given.input.model_copy(
        update={"thousands": "auto", "decimal": ","})}))  # fmt: skip
    assert decoded.numbers["spend"].tolist() == [20.433]


def test_compact_dates_of_a_format_are_not_numbers(tmp_path: Path) -> None:
    decoded, rejected = table(tmp_path, "customer_id,event_time,age,spend\n1,02052024,1,2\n", config(time_format="%d%m%Y"))
    assert rejected == []
    assert times(decoded) == ["2024-05-02T00:00:00"]


def test_a_number_of_another_way_of_writing_is_a_dead_letter(tmp_path: Path) -> None:
    rows = "".join(f"{i};2024-01-01;30;{i},5\n" for i in range(20))
    decoded, rejected = table(tmp_path, "customer_id;event_time;age;spend\n" + rows + "x;2024-01-01;30;12.5\n", config())
    assert decoded.numbers["spend"].tolist() == [i + 0.5 for i in range(20)]
    assert [(one.at, one.error.code, one.error.field) for one in rejected] == [(20, "wrong_type", "spend")]
    assert "'12.5' is not written as the other numbers are" in rejected[0].error.message


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_line_feeds_and_carriage_returns_end_a_row(tmp_path: Path, sign: str) -> None:
    content = f'customer_id,event_time,age,spend,name\n1,2024-01-01,1,2,Shop{sign}Ltd\n2,2024-01-01,1,2,"a\r\nb\rc"\n'
    decoded, rejected = table(tmp_path, content, config([{"name": "age"}, {"name": "name", "one_hot": ["x", "y"]}]))
    assert rejected == []
    assert decoded.texts["name"] == [f"Shop{sign}Ltd", "a\r\nb\rc"]


def test_any_type_of_parquet_is_read_through_its_schema(tmp_path: Path) -> None:
    ns = pa.array([1704103200123456789], pa.timestamp("ns"))
    columns = {
        "customer_id": pa.array([b"139"]).dictionary_encode(),
        "event_time": ns,
        "age": pa.array([30], pa.uint8()),
        "spend": pa.array(["12.50"]).cast(pa.decimal128(10, 2)),
        "half": pa.array([np.float16(0.5)], pa.float16()),
        "plan": pa.array([True]),
        "traits.size": pa.array([4], pa.int16()),
        "blob": pa.array([b"\xff\xfe"]),
        "day": pa.array([19723], pa.date32()),
        "at": pa.array([1], pa.time64("us")),
        "took": pa.array([5], pa.duration("ms")),
        "nested": pa.array(
            [{"when": 1704103200123456789, "who": b"x"}], pa.struct([("when", pa.timestamp("ns")), ("who", pa.binary())])
        ),
    }
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    given = config(
        [{"name": name} for name in ("age", "spend", "half", "traits.size")]
        + [{"name": "plan", "one_hot": ["true", "false"]}]
    )
    decoded, rejected = events(tmp_path / "e.parquet", given)
    assert rejected == []
    assert decoded.ids == ["139"]
    assert decoded.times.tolist() == [1704103200123456]
    assert {name: column.tolist() for name, column in decoded.numbers.items()} == {
        "age": [30.0], "spend": [12.5], "half": [0.5], "traits.size": [4.0]}  # fmt: skip
    assert decoded.texts["plan"] == ["true"]
    nested = config([{"name": "age"}], event_time="nested.when", customer_id="nested.who")
    decoded, rejected = events(tmp_path / "e.parquet", nested)
    assert (rejected, decoded.ids, decoded.times.tolist()) == ([], ["x"], [1704103200123456])


def test_parquet_of_floats_has_the_same_customers_as_of_integers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"customer_id": [17850.0, 17851.0, None], "age": [1.0, None, 2.0], "spend": 1})
    frame["event_time"] = pd.Timestamp("2024-01-01")
    frame.to_parquet(tmp_path / "e.parquet")
    decoded, rejected = events(tmp_path / "e.parquet", config())
    assert decoded.ids == ["17850", "17851"]
    assert np.isnan(decoded.numbers["age"][1])
    assert [(one.at, one.error.code) for one in rejected] == [(2, "missing_customer_id")]


def test_what_was_found_of_a_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("customer_id;event_time;age;spend\n1;2024-01-01;1;2,5\n")
    columns = Columns(numbers=("age", "spend"))
    known = CsvSource(path, columns).settle(None)
    assert CsvFormat("utf-8-sig", ";", ",", "none") == found_format(path, CsvWanted(), columns)
    path.write_text("customer_id;event_time;age;spend\n1;2024-01-01;1;2.5\n")
    kept = CsvSource(path, columns)
    assert kept.settle(known) == known
    assert json.loads(kept.read(0, 1).values[0])["spend"] == ["2.5"]


def test_rows_are_read_as_they_come_and_the_last_one_when_its_line_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(b"customer_id;event_ti")
    source = CsvSource(path, Columns(numbers=("age",)), follow=True)
    assert source.settle(None) == ""
    found: list[bytes] = []
    for more in (
        b"",
        b"me;age\n1;2024-01-01;",
        b"30\r",
        b"\n2;2024-01-01;31\n3;2024-01-01;3",
        b"",
        b'2\n4;2024-01-01;33;"',
        b"\n",
    ):
        with path.open("ab") as file:
            file.write(more)
        found += source.read(len(found), 100).values
    rows = [(json.loads(value)["customer_id"], json.loads(value)["age"]) for value in found[:3]]
    assert rows == [("1", 30), ("2", 31), ("3", 32)]
    assert len(found) == 3


NUMBERS = st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9).map(lambda x: round(x, 3))


@given(
    st.lists(NUMBERS, min_size=1, max_size=30),
    st.sampled_from([(".", "none"), (".", ","), (",", "none"), (",", "."), (",", " "), (".", "'")]),
)
def test_a_number_in_any_style_is_the_number(numbers: list[float], signs: tuple[str, str]) -> None:
    style = CsvFormat(decimal=signs[0], thousands=signs[1])
    for number in numbers:
        text = f"{number:,}".replace(",", "_").replace(".", signs[0]).replace("_", "" if signs[1] == "none" else signs[1])
        if "e" not in text:
            assert number_in(text, style) == number


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=20), st.sampled_from(",;\t|"))
def test_cells_agree_with_pandas(tmp_path_factory: pytest.TempPathFactory, cell: str, sign: str) -> None:
    path = tmp_path_factory.mktemp("cells") / "e.csv"
    frame = pd.DataFrame({"customer_id": ["1"], "event_time": ["2024-01-01"], "age": [1], "name": [cell]})
    frame.to_csv(path, index=False, sep=sign)
    read = pd.read_csv(path, dtype=str, keep_default_na=False, sep=sign, engine="python", quotechar='"').iloc[0]["name"]
    decoded, rejected = events(path, config([{"name": "age"}, {"name": "name", "one_hot": ["x", "y"]}]))
    assert rejected == []
    assert decoded.texts["name"] == [read.strip() or None]


@pytest.mark.parametrize(
    ("numbers", "sign", "said"),
    [
        (["850", "1.234", "2.500"], ";", "the point of '1.234'"),
        (["850", "1,234", "2,500"], "\t", "the comma of '1,234'"),
        (["850", "1,234", "2,500"], ",", "the comma of '1,234'"),
    ],
)
def test_a_sign_before_three_digits_is_asked_for_wherever_it_is(
    tmp_path: Path, numbers: list[str], sign: str, said: str
) -> None:
    rows = "".join(f'c{i}{sign}2024-01-01{sign}{30 + i}{sign}"{one}"\n' for i, one in enumerate(numbers))
    text = sign.join(["customer_id", "event_time", "age", "spend"]) + "\n" + rows
    with pytest.raises(ConfigError, match=said) as refused:
        table(tmp_path, text, config())
    assert "input.thousands" in refused.value.hint
    given = config(thousands="," if "," in numbers[1] else ".", decimal="." if "," in numbers[1] else ",")
    assert table(tmp_path, text, given)[0].numbers["spend"].tolist() == [850.0, 1234.0, 2500.0]


@pytest.mark.parametrize(
    ("written", "number"),
    [("(1.50)", -1.5), ("1.50-", -1.5), ("\u22121.5", -1.5), ("12,34,001.50", 1_234_001.5), ("NULL", None), ("\\N", None)],
)
def test_refunds_and_nothing_as_shops_write_them(tmp_path: Path, written: str, number: float | None) -> None:
    text = f'customer_id,event_time,age,spend\n1,2024-01-01,1,"{written}"\n2,2024-01-01,1,2.25\n'
    decoded, rejected = table(tmp_path, text, config())
    assert rejected == []
    assert decoded.numbers["spend"].tolist() == pytest.approx([np.nan if number is None else number, 2.25], nan_ok=True)


@pytest.mark.parametrize("nobody", ["NULL", "\\N", "nan", "N/A", "", "<NA>"])
def test_rows_of_nobody_are_no_customer(tmp_path: Path, nobody: str) -> None:
    _, rejected = table(tmp_path, f"customer_id,event_time,age,spend\n{nobody},2024-01-01,1,2\n", config())
    assert [one.error.code for one in rejected] == ["missing_customer_id"]


def test_a_condition_means_a_table_s_true_and_whole_numbers(tmp_path: Path) -> None:
    features = [{"name": "n", "aggregate": "count", "where": {"paid": True, "kind": 3}}]
    text = "customer_id,event_time,paid,kind\n1,2024-01-01,True,3.0\n2,2024-01-01,False,3.0\n3,2024-01-01,true,3\n"
    decoded, rejected = table(tmp_path, text, config(features))
    assert rejected == []
    assert np.isnan(decoded.numbers["n, of some events"]).tolist() == [False, True, False]


def test_parquet_columns_that_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    columns = {
        "customer_id": pa.array([9007199254740993], pa.decimal128(38, 0)),
        "event_time": pa.array([1704103200000], pa.timestamp("ms")),
        "age": pa.array([float("inf")]),
        "spend": pa.array([1.0]),
        "odd": pa.array([[1704103200123456789]], pa.list_(pa.timestamp("ns"))),
        "late": pa.array([10**7], pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    _, rejected = events(tmp_path / "e.parquet", config())
    assert [(one.error.code, one.error.field) for one in rejected] == [("not_finite", "age")]
    decoded, _ = events(tmp_path / "e.parquet", config([{"name": "spend"}]))
    assert decoded.ids == ["9007199254740993"]
    twice = pa.Table.from_arrays([pa.array([1])] * 4, names=["customer_id", "event_time", "spend", "spend"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ConfigError, match="'spend' twice"):
        events(tmp_path / "twice.parquet", config([{"name": "spend"}]))

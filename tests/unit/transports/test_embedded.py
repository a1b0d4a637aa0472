"""The store on disk: locks, foreign and damaged files, a full disk, files as sources and sinks."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from streamseg.application.wiring import App, open_reader, restored, source_of
from streamseg.config import Config
from streamseg.engine.events import BatchCommitted, Waiting
from streamseg.engine.verify import verified
from streamseg.errors import ConfigError, CorruptedError, RetriableError, StreamsegError
from streamseg.runtime.loop import Loop
from streamseg.transports.csv_file import CsvSource
from streamseg.transports.csv_format import Columns
from streamseg.transports.embedded import EmbeddedTransport, Wiring
from streamseg.transports.files import JsonLinesSource, LineStream
from streamseg.transports.reader import EmbeddedReader
from streamseg.transports.sources import open_source
from tests.harness import Crash, FixedClock, Recorder, crash_at, shoppers, write_lines
from tests.inputs import config_for

ROOT = Path(__file__).parents[3]


def run(config: Config, fault: Callable[[str], None] = lambda point: None) -> Recorder:
    recorder = Recorder()
    App(config, recorder, clock=FixedClock(), fault=fault).run()
    return recorder


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> Path:
    write_lines(tmp_path / "events.jsonl", shoppers(400))
    return tmp_path


def test_a_second_writer_is_kept_out_and_readers_come_in(here: Path) -> None:
    run(config_for(here))
    holder = EmbeddedTransport(here / "state.db")
    with pytest.raises(ConfigError, match=r"another process \(pid \d+\) writes"):
        EmbeddedTransport(here / "state.db")
    reader = open_reader(config_for(here))
    assert restored(config_for(here), reader).tasks[0].table.n_customers == 40
    reader.close()
    holder.close()
    EmbeddedTransport(here / "state.db").close()


def test_another_process_is_kept_out_too(here: Path) -> None:
    holder = EmbeddedTransport(here / "state.db")
    code = f"from streamseg.transports.embedded import EmbeddedTransport as E; E({str(here / 'state.db')!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    holder.close()
    assert "writes to this state" in done.stderr


def _foreign(path: Path) -> None:
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()


def _truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b"this is no database, it is a letter to a friend" * 100), "not a database"),
        (_foreign, "database of another program"),
        (_truncated, "truncated"),
    ],
)
def test_a_foreign_or_truncated_state_file_is_refused(here: Path, damage: Callable[[Path], Any], message: str) -> None:
    run(config_for(here))
    damage(here / "state.db")
    for extra in here.glob("state.db-*"):
        extra.unlink()
    for open_it in (EmbeddedReader, EmbeddedTransport):
        with pytest.raises(CorruptedError, match=message) as caught:
            open_it(here / "state.db")
        assert "state.db" in str(caught.value)
        assert "what to do" in str(caught.value)


def test_a_missing_state_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no state file"):
        EmbeddedReader(tmp_path / "none.db")


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(here: Path) -> None:
    calm = here / "calm"
    calm.mkdir()
    write_lines(calm / "events.jsonl", shoppers(400))
    run(config_for(calm))
    app = App(config_for(here), Recorder(), clock=FixedClock())
    assert isinstance(app.transport, EmbeddedTransport)
    pages = app.transport._db.execute("PRAGMA page_count").fetchone()[0]
    app.transport._db.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(RetriableError, match="full"):
        app.run()
    run(config_for(here))
    assert (here / "tags.jsonl").read_bytes() == (calm / "tags.jsonl").read_bytes()


def test_an_output_that_cannot_be_written_is_said_and_retried_before_giving_up(here: Path) -> None:
    recorder = Recorder()
    config = config_for(here).model_copy(update={"output": config_for(here).output.model_copy(update={"path": "/dev/full"})})
    with pytest.raises(StreamsegError, match="No space left on device"):
        App(config, recorder, clock=FixedClock()).run()
    assert len(recorder.of(Waiting)) == 4
    assert not recorder.of(BatchCommitted)


def test_somebody_else_s_output_file_is_not_touched(here: Path) -> None:
    (here / "tags.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match="was not written by this state"):
        run(config_for(here))
    assert (here / "tags.jsonl").read_text() == "mine\n"


def test_an_output_that_lost_committed_bytes_is_noticed(here: Path) -> None:
    run(config_for(here))
    (here / "tags.jsonl").write_text("")
    with pytest.raises(CorruptedError, match="were committed"):
        run(config_for(here))


def test_an_input_that_shrank_is_noticed(here: Path) -> None:
    run(config_for(here))
    write_lines(here / "events.jsonl", shoppers(100))
    with pytest.raises(ConfigError, match="were read before"):
        run(config_for(here))


@pytest.mark.parametrize("point", ["before_write", "before_sync", "before_commit", "after_commit"])
def test_a_crash_on_the_very_first_commit_is_no_obstacle(here: Path, point: str) -> None:
    for call in range(3):
        with pytest.raises(Crash):
            run(config_for(here), crash_at(point, call))
    run(config_for(here))
    lines = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    offsets = [line["source"]["offset"] for line in lines if line["source"]]
    assert offsets == list(range(400))


def test_files_follow_one_another_in_one_state(here: Path) -> None:
    write_lines(here / "more.jsonl", shoppers(50, seed=9))
    run(config_for(here))
    run(config_for(here, "more.jsonl"))
    run(config_for(here))
    lines = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    assert [line["source"]["offset"] for line in lines if line["source"]] == list(range(450))


def test_csv_parquet_and_json_lines_give_the_same_tags(tmp_path: Path) -> None:
    rows = [json.loads(value or b"") for _, value, _ in shoppers(300)]
    frame = pd.DataFrame(rows)
    outputs = []
    for name in ("events.csv", "events.parquet", "events.jsonl"):
        here = tmp_path / name
        here.mkdir()
        if name.endswith("csv"):
            frame.to_csv(here / name, index=False)
        elif name.endswith("parquet"):
            frame.to_parquet(here / name)
        else:
            frame.to_json(here / name, orient="records", lines=True, double_precision=15)
        run(config_for(here, name), crash_at("none", 0))
        outputs.append([json.loads(line)["segment_id"] for line in (here / "tags.jsonl").read_bytes().splitlines()])
    assert outputs[0] == outputs[1] == outputs[2]


def test_csv_cells_are_numbers_where_features_are_and_a_bad_row_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(
        b'customer_id,age,event_time,erase\n007,30,2023-01-01,\n8,,1700000000000,true\n9,old,x,\n1,2\n9,nan,1,\n"\xff",1,1,\n9,-inf,1,\n'
    )
    values = CsvSource(path, Columns(numbers=["age"])).read(0, 10).values
    assert json.loads(values[0]) == {"customer_id": "007", "age": 30, "event_time": "2023-01-01", "erase": None}
    assert json.loads(values[1]) == {"customer_id": "8", "age": None, "event_time": 1700000000000, "erase": "true"}
    assert json.loads(values[2])["age"] == "old"
    assert values[3] == b"1,2"
    assert b"NaN" in values[4]
    assert values[5] == b'"\xff",1,1,'
    assert b"-Infinity" in values[6]
    (second,) = CsvSource(path, Columns(numbers=["age"])).read(1, 1).values
    assert json.loads(second)["customer_id"] == "8"


def test_a_line_larger_than_memory_should_hold_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"short\n" + b"x" * 55 + b"\n\nlast\n")
    read = JsonLinesSource(path, max_line_bytes=10).read(0, 10)
    assert read.values == [b"short", b"xxxxxxxxxx", b"last"]
    assert read.ended


def test_a_missing_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no input file"):
        open_source(tmp_path / "none.jsonl", Columns())


def test_a_line_that_is_still_being_written_is_left_for_the_next_run(here: Path) -> None:
    data = (here / "events.jsonl").read_bytes()
    (here / "events.jsonl").write_bytes(data[:-30])
    run(config_for(here))
    assert (here / "tags.dead-letters.jsonl").read_bytes() == b""
    (here / "events.jsonl").write_bytes(data)
    run(config_for(here))
    lines = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    assert [line["source"]["offset"] for line in lines if line["source"]] == list(range(400))
    assert (here / "tags.dead-letters.jsonl").read_bytes() == b""


def test_an_unclosed_quote_spoils_its_own_row_only(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    rows = [f"c{i},{i},1" for i in range(300)]
    rows[100] = '"c100,100,1'
    rows[200] = '"c\n200",200,1'
    path.write_text("customer_id,age,event_time\n" + "\n".join(rows) + "\n")
    values = CsvSource(path, Columns(numbers=["age"])).read(0, 1000).values
    assert len(values) == 300
    assert values[100] == b'"c100,100,1'
    assert json.loads(values[101])["customer_id"] == "c101"
    assert json.loads(values[200])["customer_id"] == "c\n200"


def test_a_huge_cell_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("customer_id,age,event_time\na,1,\nb," + "9" * 200_000 + ",\nc,3,\n")
    values = CsvSource(path, Columns(numbers=["age"])).read(0, 10).values
    assert [json.loads(values[i])["customer_id"] for i in (0, 2)] == ["a", "c"]


def test_a_state_whose_making_was_killed_is_made_again(here: Path) -> None:
    db = sqlite3.connect(here / "state.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    run(config_for(here))
    assert len((here / "tags.jsonl").read_bytes().splitlines()) >= 400


def test_tags_may_go_to_dev_null(here: Path) -> None:
    config = config_for(here)
    nowhere = config.model_copy(update={"output": config.output.model_copy(update={"path": "/dev/null"})})
    for _ in range(2):
        App(nowhere, Recorder(), clock=FixedClock()).run()


def test_a_stream_and_files_may_take_turns_and_lose_nothing(here: Path) -> None:
    """Offsets go on through both; lines that a stream left behind come before the next file."""
    run(config_for(here))
    stream = LineStream(_filled_pipe(shoppers(90, seed=7)))
    config = config_for(here)
    settings = config.job_settings()
    wiring = Wiring(stream, here / "tags.jsonl", here / "tags.dead-letters.jsonl")
    for batch, stop_after in ((20, 2), (20, 100)):
        store = EmbeddedTransport(here / "state.db", wiring=wiring)
        one = Loop(store, settings, FixedClock(), Recorder(), threading.Event(), batch_records=batch)
        one._restore()
        for _ in range(stop_after):
            if one._turn():
                break
        store.close()
        if stop_after == 2:
            write_lines(here / "more.jsonl", shoppers(30, seed=8))
            run(config_for(here, "more.jsonl"))
    lines = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    assert [line["source"]["offset"] for line in lines if line["source"]] == list(range(400 + 90 + 30))


def _filled_pipe(events: list[Any]) -> int:
    read, write = os.pipe()
    os.write(write, b"".join((value or b"") + b"\n" for _, value, _ in events))
    os.close(write)
    return read


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_is_polled_at_once_and_committed_in_pieces_is_there_once_after_crashes(tmp_path: Path, kind: str) -> None:
    """In a slow stream event time ends a step in the middle of what a poll brought."""
    hour_ms, began_ms = 3_600_000, 1_700_000_000_000
    lines = [{"customer_id": f"c{i % 60}", "event_time": began_ms + i * hour_ms, "age": 20 + i % 3} for i in range(1_500)]
    path = tmp_path / f"events.{kind}"
    if kind == "csv":
        path.write_text("customer_id,event_time,age\n" + "".join(",".join(map(str, one.values())) + "\n" for one in lines))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    features = [{"name": "recency", "aggregate": "recency"}, {"name": "age"}]
    tree = config_for(tmp_path, path.name).model_dump() | {"features": features}
    tree["input"]["batch_records"] = 5_000
    config = Config.model_validate(tree)
    for call in range(12):
        with suppress(Crash):
            run(config, crash_at(("before_commit", "after_commit")[call % 2], 3 + call % 3))
    run(config)
    tags = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_bytes().splitlines()]
    assert [tag["source"]["offset"] for tag in tags if tag["source"]] == list(range(1_500))
    with closing(EmbeddedReader(tmp_path / "state.db", partial(source_of, config))) as reader:
        report = verified(reader, config.job_settings(), FixedClock())
    assert report.records == 1_500
    assert not report.lost

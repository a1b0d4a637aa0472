"""`verify` fails on any damage, and names the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamseg.application.wiring import App, open_reader
from streamseg.config import Config
from streamseg.engine.verify import Verifier
from streamseg.engine.verify_partition import Report
from streamseg.errors import CorruptedError, DifferenceError, StreamsegError
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import BAD, FixedClock, Recorder, event, shoppers, write_lines

Damage = Callable[[Path], None]


def config_for(directory: Path) -> Config:
    return Config.model_validate(
        {
            "input": {"path": str(directory / "events.jsonl"), "batch_records": 100},
            "output": {"path": str(directory / "tags.jsonl")},
            "embedded": {"path": str(directory / "state.db")},
            "model": {"segments": 3, "warm_up": 30},
        }
    )


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Path:
    write_lines(tmp_path / "events.jsonl", [*shoppers(500, 60), *BAD[:3], event("c1", 9e4, age=1.0)])
    App(config_for(tmp_path), Recorder(), clock=FixedClock()).run()
    return tmp_path


def verify(directory: Path) -> Report:
    config = config_for(directory)
    reader = open_reader(config)
    try:
        return Verifier(reader, config.job_settings(), FixedClock(), lambda report: None).run()
    finally:
        reader.close()


def sql(directory: Path, statement: str, *values: Any) -> None:
    """Tamper with the store through SQLite itself."""
    transport = EmbeddedTransport(directory / "state.db")
    transport._db.execute(statement, values)
    transport.close()


def test_an_untouched_run_is_proved_from_its_beginning(run: Path) -> None:
    report = verify(run)
    assert report.horizon == {0: 0}
    assert report.records == 504
    assert report.dead_letters == 3
    assert report.tags == len((run / "tags.jsonl").read_bytes().splitlines())
    assert report.unread == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_flipped_byte_of_any_output_is_found_and_its_place_named(run: Path) -> None:
    for name in ("tags.jsonl", "tags.dead-letters.jsonl"):
        size = (run / name).stat().st_size
        for at in (0, size // 3, size // 2, size - 2):
            flip(run / name, at)
            with pytest.raises(DifferenceError, match="input offsets"):
                verify(run)
            flip(run / name, at)
    assert verify(run).tags


@pytest.mark.parametrize("log", ["model-0", "customers-0"])
@pytest.mark.parametrize("at", [0, 5, 11, 20, 40, 300])
def test_one_flipped_byte_of_a_log_is_found(run: Path, log: str, at: int) -> None:
    transport = EmbeddedTransport(run / "state.db")
    (value,) = transport._db.execute(f'SELECT value FROM "{log}" WHERE offset = 3').fetchone()
    data = bytearray(value)
    data[at] ^= 4
    transport._db.execute(f'UPDATE "{log}" SET value = ? WHERE offset = 3', (bytes(data),))
    transport.close()
    with pytest.raises((CorruptedError, DifferenceError), match=r"offset 3|offset 4|whole|manifest|ends before"):
        verify(run)


MODEL = '"model-0"'
DAMAGES: dict[str, Damage] = {
    "a dropped manifest": lambda d: sql(d, 'DELETE FROM "model-0" WHERE offset = 3'),
    "the last manifest dropped": lambda d: sql(
        d, 'DELETE FROM "model-0" WHERE offset = (SELECT max(offset) FROM "model-0")'
    ),
    "a dropped customers' delta": lambda d: sql(d, 'DELETE FROM "customers-0" WHERE offset = 2'),
    "a doubled manifest": lambda d: sql(
        d,
        f"INSERT INTO {MODEL} SELECT max(offset) + 1, key, (SELECT value FROM {MODEL} WHERE offset = 3), 0 FROM {MODEL}",
    ),
    "a doubled tag": lambda d: edit(d, lambda lines: [*lines[:7], lines[6], *lines[7:]]),
    "a doubled last tag": lambda d: edit(d, lambda lines: [*lines, lines[-1]]),
    "a lost tag": lambda d: edit(d, lambda lines: lines[:50] + lines[51:]),
    "a lost last tag": lambda d: edit(d, lambda lines: lines[:-1]),
    "two tags exchanged": lambda d: edit(d, lambda lines: [lines[1], lines[0], *lines[2:]]),
    "a committed offset moved": lambda d: sql(d, "UPDATE offsets SET next_offset = next_offset - 1"),
    "a catalog record changed": lambda d: sql(
        d, 'UPDATE "catalog-0" SET value = replace(value, \'"active"\', \'"actove"\') WHERE offset = 0'
    ),
    "an input record changed": lambda d: flip(d / "events.jsonl", 5_000),
}


def edit(directory: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = directory / "tags.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_damage_is_found(run: Path, damage: str) -> None:
    DAMAGES[damage](run)
    with pytest.raises(StreamsegError) as caught:
        verify(run)
    assert isinstance(caught.value, DifferenceError | CorruptedError)
    assert caught.value.where


def test_an_input_that_is_gone_is_said_and_not_proved(run: Path) -> None:
    (run / "events.jsonl").rename(run / "elsewhere.jsonl")
    report = verify(run)
    assert report.records == 0
    assert report.unread == ["the input of partition 0 from offset 0 on is gone: its tags were not re-derived"]
    assert report.lost


def test_outputs_that_are_gone_are_said(run: Path) -> None:
    (run / "tags.jsonl").unlink()
    report = verify(run)
    assert report.unread == ["assignments of partition 0 cannot be read any more"]
    assert report.records == 504


def test_what_a_crash_left_behind_is_found_unless_somebody_is_writing(run: Path) -> None:
    with (run / "tags.jsonl").open("ab") as file:
        file.write(b'{"half":')
    with pytest.raises(DifferenceError, match="a tag that no batch gives"):
        verify(run)
    holder = EmbeddedTransport(run / "state.db")
    assert verify(run).lost is False
    holder.close()


def test_after_an_output_was_changed_for_a_stream_verify_says_what_it_cannot_compare(run: Path) -> None:
    transport = EmbeddedTransport(run / "state.db")
    transport._note_path("assignments-0", transport._count("assignments-0", 0), "-", 0)
    transport.close()
    report = verify(run)
    assert report.unread == ["assignments of partition 0 went to a stream"]
    assert not report.lost


def test_a_run_whose_committed_offsets_have_expired_is_proved_from_its_logs(run: Path) -> None:
    sql(run, "DELETE FROM offsets")
    assert verify(run).records == 504

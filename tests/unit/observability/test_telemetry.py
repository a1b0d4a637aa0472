"""What people and programs are told about a running job."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from streamseg.engine.events import (
    BatchCommitted,
    ModelChanged,
    Observation,
    Observers,
    SegmentSummary,
    SnapshotTaken,
    Started,
    Stopped,
    Waiting,
)
from streamseg.observability.logs import JsonLog
from streamseg.observability.status import StatusLine, bar, number, sigmas
from tests.harness import Recorder

SEGMENTS = (SegmentSummary(3, "High spend", 75, 0.75, 0.1), SegmentSummary(1, "Low spend", 25, 0.25, 1.4))


def batch(**outcomes: int) -> BatchCommitted:
    return BatchCommitted(
        outcomes,
        {"not_json": outcomes.get("dead_letter", 0)},
        {(3, "new", "event"): 2},
        {(-1, 3): 2, (1, 3): 1},
        SEGMENTS,
        {0: 5000},
        7,
        1_700_000_000_000_000,
        None,
        0,
        0,
    )


STORY: list[Observation] = [
    Started("shop", {0: 1000}, 4, 60, 0.25, SEGMENTS),
    ModelChanged("started", 5, SEGMENTS),
    batch(assigned=3990, dead_letter=10),
    SnapshotTaken(0, 60, 6),
    Waiting("retrying", "cannot write: No space left on device", {"attempt": 1}),
    Stopped("input_ended", {0: 5000}),
]


def test_log_lines_are_json_objects_with_stable_event_names() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, "shop", now=lambda: 1_700_000_000.0)
    for event in STORY:
        log.observe(event)
    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ["started", "model_started", "progress", "snapshot_taken", "retrying", "stopped"]
    assert [line["event"] for line in lines] == names
    assert all(line["application"] == "shop" and line["time"] == "2023-11-14T22:13:20.000+00:00" for line in lines)
    assert lines[0]["customers"] == 60
    assert lines[2]["events"] == 4000
    assert lines[4]["attempt"] == 1
    assert lines[5] == lines[5] | {"reason": "input_ended", "events": 4000, "dead_letters": 10, "offsets": {"0": 5000}}


class Full(io.StringIO):
    """A disk without room."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_loses_lines_and_goes_on() -> None:
    stream = Full()
    log = JsonLog(stream, "shop")
    log.observe(STORY[0])
    stream.full = False
    log.observe(STORY[-1])
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["stopped"]


class Broken:
    """Fails at what it is told."""

    def observe(self, event: Observation) -> None:
        raise RuntimeError("a defect")


def test_an_observer_that_fails_is_told_nothing_more_and_the_others_are_told_that() -> None:
    before, after = Recorder(), Recorder()
    observers = Observers(before, Broken(), after)
    observers.observe(STORY[0])
    observers.observe(STORY[-1])
    failed = Waiting("observer_failed", "Broken is told nothing more: RuntimeError: a defect", {"observer": "Broken"})
    assert before.events == [STORY[0], failed, STORY[-1]]
    assert sorted(map(str, after.events)) == sorted(map(str, before.events))


def test_two_observers_that_fail_at_once_stop_nobody() -> None:
    there = Recorder()
    observers = Observers(Broken(), Broken(), there)
    observers.observe(STORY[0])
    observers.observe(STORY[-1])
    told: list[object] = [event.event if isinstance(event, Waiting) else event for event in there.events]
    assert told.count("observer_failed") == 2
    assert told.count(STORY[0]) == told.count(STORY[-1]) == 1


def test_progress_is_told_at_most_every_ten_seconds() -> None:
    now = [100.0]
    stream = io.StringIO()
    log = JsonLog(stream, "shop", now=lambda: now[0])
    for second in range(25):
        now[0] = 100.0 + second
        log.observe(batch(assigned=1))
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.parametrize("table", [True, False])
def test_the_status_line_tells_events_lag_segments_and_dead_letters(table: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    status = StatusLine(console, lambda: "1.5 MB", table=table)
    for event in STORY:
        status.observe(event)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "restored 60 customers at model version 4" in shown
    assert "5,000 events" in shown
    assert "lag 1.5 MB" in shown
    assert "2 segments" in shown
    assert "10 dead letters" in shown
    assert "No space left on device" in shown
    assert ("High spend" in shown) is table
    if table:
        assert "+3" in shown
        assert "-1" in shown
        assert "75%" in shown


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (65720.4, 24.412, 0.00312, -3.0)] == ["65,720", "24.41", "0.00312", "-3"]
    assert [sigmas(value) for value in (1.44, -0.04, -2.0)] == ["+1.4σ", "+0.0σ", "-2.0σ"]
    assert bar(0.5).count("█") == 6

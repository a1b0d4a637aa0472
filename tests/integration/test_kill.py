"""Real processes, killed with SIGKILL at any moment: the output equals that of a run that nobody touched."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from streamseg.application.wiring import open_reader
from streamseg.config import Config
from streamseg.engine.verify import Verifier
from tests.exploring import some
from tests.harness import BAD, FixedClock, event, shoppers, write_lines
from tests.processes import Process
from tests.waiting import until

ROOT = Path(__file__).parents[2]
POINTS = ["before_write", "before_sync", "before_commit", "after_commit"]
DEADLINE_S = 120


def config_for(directory: Path, events: Path) -> dict[str, Any]:
    return {
        "input": {"path": str(events), "batch_records": 250},
        "output": {"path": str(directory / "tags.jsonl")},
        "embedded": {"path": str(directory / "state.db")},
        "features": [
            {"name": "age"},
            {"name": "spend", "field": "income", "aggregate": "sum", "half_life": "30d", "transform": "log1p"},
            {"name": "visits", "aggregate": "count", "half_life": "10d"},
        ],
        "model": {"segments": 3, "warm_up": 100, "retag_every": "1d"},
    }


def start(config: dict[str, Any], point: str = "none", call: int = 0, said: Path | None = None) -> Process:
    return Process("tests.integration.worker", json.dumps(config), point, str(call), cwd=ROOT, stdout=said)


def finish(process: Process) -> int:
    return process.wait(DEADLINE_S)


def committed(config: dict[str, Any]) -> int:
    if not Path(config["embedded"]["path"]).exists():
        return 0
    reader = open_reader(Config.model_validate(config))
    offsets = reader.committed()
    reader.close()
    return offsets[0].next_offset if offsets else 0


def outputs(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.jsonl"))}


@pytest.fixture(name="events")
def _events(tmp_path: Path) -> Path:
    events = shoppers(12_000, 700, seed=3)
    for i, bad in enumerate([*BAD[:-1], event("c5", 3e5, erase=True), event("c6", 5e5, age=1.0)] * 3):
        events.insert(i * 400, bad)
    path = tmp_path / "events.jsonl"
    write_lines(path, events)
    return path


@pytest.mark.parametrize(("at_points", "at_outputs"), some([(5, 2), (18, 6)]))
def test_the_output_survives_sigkill_at_any_moment(tmp_path: Path, events: Path, at_points: int, at_outputs: int) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert finish(start(config_for(calm, events))) == 0
    config = config_for(killed, events)
    rng = random.Random(1)
    kills, after_the_first_commit = 0, 0
    for i in range(at_points):
        reached = committed(config)
        assert finish(start(config, POINTS[i % len(POINTS)], rng.randrange(0 if i < 2 else 1, 4))) == -signal.SIGKILL
        kills += 1
        after_the_first_commit += reached > 0
        assert committed(config) >= reached
    for i in range(at_outputs):
        said, commits = tmp_path / f"said{i}", rng.randrange(1, 4)
        process = start(config, said=said)
        until(lambda said=said, n=commits: said.exists() and said.read_text().count("\n") >= n, "some commits")  # type: ignore[misc]
        process.kill()
        assert finish(process) == -signal.SIGKILL
        kills += 1
        after_the_first_commit += 1
    assert finish(start(config)) == 0
    print(f"{kills} kills, {after_the_first_commit} of them after the first commit")
    assert kills == at_points + at_outputs
    assert after_the_first_commit >= kills * 2 // 3
    assert outputs(killed) == outputs(calm)
    assert committed(config) == committed(config_for(calm, events))
    prove(config)


def prove(config: dict[str, Any]) -> None:
    loaded = Config.model_validate(config)
    reader = open_reader(loaded)
    report = Verifier(reader, loaded.job_settings(), FixedClock(), lambda report: None).run()
    reader.close()
    assert report.unread == []


def test_a_finished_run_finds_nothing_more_to_do_and_goes_on_when_the_file_grows(tmp_path: Path, events: Path) -> None:
    config = config_for(tmp_path / "out", events)
    assert finish(start(config)) == 0
    before = outputs(tmp_path / "out")
    assert finish(start(config)) == 0
    assert outputs(tmp_path / "out") == before
    with events.open("ab") as file:
        file.write(b'{"customer_id":"late","event_time":1700000000000,"age":30,"income":1000}\n')
    assert finish(start(config)) == 0
    more = outputs(tmp_path / "out")["tags.jsonl"].removeprefix(before["tags.jsonl"])
    assert json.loads(more)["customer_id"] == "late"

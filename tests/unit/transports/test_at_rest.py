"""What is kept about customers: who may read it, and that nothing of it is lost or cut off without a word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import FEW, ran, streamseg
from tests.harness import event, shoppers, write_lines


def files(directory: Path) -> list[str]:
    named = {"--input": "events.jsonl", "--output": "tags.jsonl", "--state": "state.db"}
    return [argument for flag, name in named.items() for argument in (flag, str(directory / name))]


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir() if path.name != "events.jsonl"}


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_state_outputs_and_locks_are_the_owners_alone(tmp_path: Path, umask: int) -> None:
    write_lines(tmp_path / "events.jsonl", [*shoppers(400), event(None, 1.0)])
    before = os.umask(umask)
    try:
        ran("run", *files(tmp_path), *FEW)
    finally:
        os.umask(before)
    found = modes(tmp_path)
    assert {"state.db", "state.db.lock", "tags.jsonl", "tags.dead-letters.jsonl"} <= found.keys()
    assert set(found.values()) == {0o600}


def test_outputs_may_be_shared_and_what_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.jsonl", [*shoppers(400), event(None, 1.0)])
    (tmp_path / "tags.jsonl").touch(0o604)
    (tmp_path / "tags.jsonl").chmod(0o604)
    before = os.umask(0o077)
    try:
        ran("run", *files(tmp_path), *FEW, "--set", "output.mode=0640")
    finally:
        os.umask(before)
    found = modes(tmp_path)
    assert (found["tags.jsonl"], found["tags.dead-letters.jsonl"], found["state.db"]) == (0o604, 0o640, 0o600)


def test_what_somebody_appended_to_an_output_is_refused_and_what_a_crash_left_is_cut_off_with_a_word(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.jsonl", shoppers(400))
    ran("run", *files(tmp_path), *FEW)
    tags = tmp_path / "tags.jsonl"
    committed = tags.read_bytes()
    with tags.open("ab") as file:
        file.write(b"a note of mine\n")
    refused = streamseg("run", *files(tmp_path), *FEW)
    assert refused.exit_code == 2
    assert "has 15 bytes behind the" in refused.stderr
    assert f"truncate -s {len(committed)}" in refused.stderr
    assert tags.read_bytes() == committed + b"a note of mine\n"
    left = committed.splitlines(keepends=True)[0] + b'{"schema_ver'
    tags.write_bytes(committed + left)
    done = streamseg("run", *files(tmp_path), *FEW)
    assert done.exit_code == 0
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if '"output_cut"' in line]
    assert line["message"].startswith(f"{len(left):,} bytes that were not committed were cut off")
    assert tags.read_bytes() == committed


def killed_in_the_middle(directory: Path) -> None:
    """A run that is killed where it has committed, without any end."""
    code = """
import os, sys
from tests.inputs import config_for
from tests.harness import FixedClock, Recorder
from streamseg.application.wiring import App
from pathlib import Path
seen = []
def fault(point):
    seen.append(point)
    if seen.count("after_commit") == 3:
        os.kill(os.getpid(), 9)
App(config_for(Path(sys.argv[1])), Recorder(), clock=FixedClock(), fault=fault).run()
"""
    subprocess.run([sys.executable, "-c", code, str(directory)], cwd=Path(__file__).parents[3], check=False)


STATE = ("--set", "model.segments=3", "--set", "model.warm_up=30")


def test_a_state_that_was_copied_without_its_log_is_noticed(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.jsonl", shoppers(2_000))
    killed_in_the_middle(tmp_path)
    assert (tmp_path / "state.db-wal").exists()
    shutil.copy(tmp_path / "state.db", tmp_path / "copy.db")
    for command in ("run", "explain", "backup"):
        more = {"run": [*files(tmp_path)[:4]], "explain": ["c1"], "backup": [str(tmp_path / "again.db")]}[command]
        refused = streamseg(command, *more, "--state", str(tmp_path / "copy.db"), *STATE)
        assert refused.exit_code == 4, refused.output
        assert "streamseg backup" in refused.stderr
    # With its log it goes on, and where it ended it needs none.
    ran("run", *files(tmp_path), *STATE)
    shutil.copy(tmp_path / "state.db", tmp_path / "copy.db")
    ran("explain", "c1", "--state", str(tmp_path / "copy.db"), *STATE)


def test_a_backup_of_a_killed_job_goes_on_as_the_state_would(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.jsonl", shoppers(2_000))
    killed_in_the_middle(tmp_path)
    state, copy = str(tmp_path / "state.db"), str(tmp_path / "copy.db")
    ran("backup", copy, "--state", state)
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "copy.db-wal").exists()
    refused = streamseg("backup", copy, "--state", state)
    assert refused.exit_code == 2
    assert "is there already" in refused.stderr
    said = [ran("explain", "c1", "--json", "--state", one, *STATE) for one in (copy, state)]
    assert said[0] == said[1]
    (tmp_path / "state.db-wal").unlink()
    ran("backup", str(tmp_path / "old.db"), "--as-is", "--state", state)
    ran("run", *files(tmp_path)[:4], "--state", copy, *STATE)
    tags = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_bytes().splitlines()]
    assert [tag["source"]["offset"] for tag in tags if tag["source"]] == list(range(2_000))
    ran("verify", "--state", copy, *STATE)

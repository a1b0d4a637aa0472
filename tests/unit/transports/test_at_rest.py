"""Who may read what is kept about customers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import event, shoppers, write_lines
from tests.unit.cli.test_commands import FEW, ran


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

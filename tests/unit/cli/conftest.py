"""Events in a working directory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import event, shoppers, write_lines


@pytest.fixture(name="here")
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "events.jsonl", [*shoppers(400), event("waits", 1.0, age=3.0)])
    return tmp_path

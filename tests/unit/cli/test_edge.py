"""The edge of the process: outputs that take nothing, and the doctor of a job on files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import FEW, ROOT, ran, streamseg

FULL = "/dev/full"


def ended(*arguments: str, out: str = os.devnull, err: str | None = None) -> tuple[int, str]:
    """Exit code, and what standard error was told."""
    with open(out, "wb") as stdout, open(err or os.devnull, "wb") as stderr:
        done = subprocess.run(
            [sys.executable, "-m", "streamseg", *arguments],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr if err else subprocess.PIPE, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    return done.returncode, (done.stderr or b"").decode()


@pytest.mark.parametrize("command", [("segments",), ("verify",), ("config", "show"), ("schema", "event")])
def test_a_full_standard_output_is_an_error_and_no_traceback(here: Path, command: tuple[str, ...]) -> None:
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW)
    sets = FEW if command[0] in ("segments", "verify") else []
    code, told = ended(*command, *sets, out=FULL)
    assert code == 5
    assert told.startswith("error: cannot write to standard output: No space left on device")
    assert "Traceback" not in told


def test_a_full_standard_error_keeps_the_exit_code() -> None:
    assert ended("run", "-i", "nowhere.jsonl", err=FULL) == (2, "")


def test_a_run_whose_reader_has_gone_does_not_claim_to_be_done(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "streamseg", "run", "-i", "events.jsonl", "-o", "-", *FEW],
        stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
    tags = ran("run", "-i", "events.jsonl", "-o", "-", *FEW)
    assert len(tags.splitlines()) >= 400, "nothing is lost"


def test_the_doctor_looks_at_input_state_and_port_of_a_job_on_files(here: Path) -> None:
    files = ["--set", "input.path=events.jsonl", "--set", "output.path=tags.jsonl"]
    found = json.loads(ran("doctor", "--json", *files, "--set", "metrics.port=0"))
    assert [(one["what"], one["ok"]) for one in found] == [
        ("events", True), ("output", True), ("state", True), ("metrics", None),
    ]  # fmt: skip
    assert found[0]["text"] == "a sample of 401 can be read"
    result = streamseg("doctor", "--set", "input.path=nowhere.jsonl", "--set", "embedded.path=nodir/shop.db")
    assert result.exit_code == 2
    assert "no   input: there is no input file 'nowhere.jsonl'" in result.output
    assert "ok   state: 'nodir/shop.db' can be written" in result.output
    (here / "shop.db").write_bytes(b"no database at all, and long enough to be read as one" * 20)
    result = streamseg("doctor", *files, "--set", "embedded.path=shop.db")
    assert "no   state: the state file is damaged or is no streamseg state" in result.output
    assert "none is named: set input.path" in streamseg("doctor").output

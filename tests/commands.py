"""Commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from streamseg.cli.main import app

ROOT = Path(__file__).parents[3]


FEW = ["--set", "model.segments=3", "--set", "model.warm_up=30"]


def streamseg(*arguments: str) -> Any:
    """The result of a command, without the default port of its metrics: a test beside this one may hold that."""
    return CliRunner(env={"STREAMSEG_METRICS__PORT": "0"}).invoke(app, arguments)


def ran(*arguments: str) -> str:
    result = streamseg(*arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return str(result.output)


def process(*arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "streamseg", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        **kwargs,
    )  # fmt: skip

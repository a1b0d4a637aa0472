"""Programs of others from Maven's artifacts, fetched once and kept."""

from __future__ import annotations

import fcntl
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.waiting import pause

# Newer ones read the POM of an artifact's parent, too, which not every mirror has.
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy"
_ATTEMPTS, _BETWEEN_S, _DEADLINE_S = 3, 5.0, 600.0


def copies(*artifacts: str) -> list[list[str]]:
    """Runs that fetch artifacts, without what they depend on."""
    return [[_COPY, f"-Dartifact={artifact}", "-DoutputDirectory=."] for artifact in artifacts]


def fetched(name: str, runs: Sequence[Sequence[str]], pom: str = "") -> Path:
    """A folder of this name with what runs of Maven left in it, archives unpacked.

    Maven's own store of artifacts takes one run at a time, so only one process fetches. What fails is tried again.
    """
    root = Path(tempfile.gettempdir())
    target = root / name
    done = target / "complete"
    with (root / "streamseg-test-maven.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            target.mkdir(exist_ok=True)
            if pom:
                (target / "pom.xml").write_text(pom)
            for run in runs:
                _run(["mvn", "-q", "-B", *run], target)
            for archive in target.glob("*.tar.gz"):
                with tarfile.open(archive) as packed:
                    packed.extractall(target, filter="data")
            done.touch()
    return target


def _run(command: list[str], directory: Path) -> None:
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        if subprocess.run(command, cwd=directory, check=last, timeout=_DEADLINE_S).returncode == 0:
            return
        pause(_BETWEEN_S)

"""Real processes that begin as copies of one that has imported everything: a start takes milliseconds instead of seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


class Process:
    """`python -W ignore -m MODULE ARGUMENTS`, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        """`stdout`, `stderr`: files that are written on from their ends; /dev/null where none is named."""
        files = (str(stdout or os.devnull), str(stderr or os.devnull))
        environment = dict(os.environ if env is None else env)
        # As a daemon it ends with the test run, whatever happens.
        self._process = _context.Process(target=_run, args=(module, arguments, str(cwd), environment, files), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(module: str, arguments: Sequence[str], cwd: str, environment: dict[str, str], files: tuple[str, str]) -> None:
    """In the new process: what the interpreter does for `-m`."""
    for number, path in enumerate((os.devnull, *files)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(number, "w", buffering=1, encoding="utf-8", closefd=False))  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # Left as Python leaves it; the test run's processes ignore or handle others.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def ran(
    module: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 120.0
) -> tuple[int, str]:
    """Exit code, and what was written: standard output, then standard error."""
    names = [cwd / f".said.{os.getpid()}.{stream}" for stream in ("out", "err")]
    for name in names:
        name.unlink(missing_ok=True)
    process = Process(module, *arguments, cwd=cwd, env=env, stdout=names[0], stderr=names[1])
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    said = "".join(name.read_text(encoding="utf-8") for name in names)
    for name in names:
        name.unlink()
    return code, said

"""`streamseg run --workers N`: processes that share the input, and somebody who looks after them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from streamseg.cli.common import err
from streamseg.config.sections import MetricsConfig
from streamseg.errors import ConfigError, CorruptedError, FencedError
from streamseg.observability.endpoint import Endpoint
from streamseg.observability.merged import Workers

# What starting again does not mend.
_FINAL = {error.exit_code for error in (ConfigError, CorruptedError, FencedError)}
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# A worker that lasted so long was healthy.
_LASTED_S = 60.0
_STOP_S = 30.0


class Supervisor:
    """Keeps N workers running until it is told to stop, or one cannot go on."""

    def __init__(self, command: Sequence[str], n_workers: int, stop: threading.Event, metrics: MetricsConfig) -> None:
        """Raises ConfigError where the port of the metrics is taken."""
        self._command, self._stop = list(command), stop
        # Each worker's stays the same when it is started again.
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n_workers)] if metrics.port else []
        self._endpoint: Endpoint | None = None
        if metrics.port:
            ports = [listening.getsockname()[1] for listening in self._sockets]
            self._endpoint = Endpoint(Workers(ports), metrics.address, metrics.port, allowed_hosts=metrics.allowed_hosts)
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * n_workers
        self._pauses = [_FIRST_PAUSE_S] * n_workers
        self._due = [0.0] * n_workers

    def run(self) -> int:
        """Returns the exit code: 0, or that of a worker that cannot go on."""
        code = 0
        try:
            while not self._stop.is_set() and not code:
                code = max(self._look(i) for i in range(len(self._workers)))
                self._stop.wait(_LOOK_S)
        finally:
            self._end()
        return code

    def _look(self, i: int) -> int:
        worker = self._workers[i]
        if worker is not None:
            ended = worker.poll()
            if ended is None:
                return 0
            self._workers[i] = None
            if ended in _FINAL:
                err.print(f"worker {i} ended with exit code {ended}: the others are stopped too")
                return ended
            if time.monotonic() - self._due[i] > _LASTED_S:
                self._pauses[i] = _FIRST_PAUSE_S
            self._due[i] = time.monotonic() + self._pauses[i]
            err.print(f"worker {i} ended with exit code {ended}; it is started again in {self._pauses[i]:.1f} s")
            self._pauses[i] = min(self._pauses[i] * 2, _LONGEST_PAUSE_S)
        if time.monotonic() >= self._due[i]:
            self._workers[i] = self._started(i)
        return 0

    def _started(self, i: int) -> subprocess.Popen[bytes]:
        if not self._sockets:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        fd = self._sockets[i].fileno()
        return subprocess.Popen([*self._command, "--metrics-fd", str(fd)], stdin=subprocess.DEVNULL, pass_fds=[fd])

    def _end(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
        running = [worker for worker in self._workers if worker is not None]
        for worker in running:
            worker.terminate()
        deadline = time.monotonic() + _STOP_S
        for worker in running:
            try:
                worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def command_of_one() -> list[str]:
    """This command line, for one worker."""
    arguments = sys.argv[1:]
    for i, argument in enumerate(arguments):
        if argument == "--workers":
            arguments = arguments[:i] + arguments[i + 2 :]
            break
        if argument.startswith("--workers="):
            arguments = arguments[:i] + arguments[i + 1 :]
            break
    return [sys.executable, "-m", "streamseg", *arguments, "--log", "json"]

"""A stable id for each worker of a host: the first free slot of its application, held by a lock file.

A worker that was killed and comes back finds its slot free, and by the id takes its place in the group at once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

from streamseg.errors import ConfigError

_SLOTS = 1000


# Their locks hold the slots until the process ends, however it ends.
_held: list[int] = []


def take(application: str, directory: Path | None = None) -> str:
    """The first slot that no live process of this host holds. Raises ConfigError."""
    where = directory or Path(tempfile.gettempdir())
    for number in range(_SLOTS):
        path = where / f"streamseg-{application}-{number}.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot hold a worker's slot: {error.strerror}", where=str(path), hint="set worker.id to an id of its own"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        _held.append(handle)
        return f"{socket.gethostname()}-{number}"
    raise ConfigError(f"{_SLOTS} workers of {application!r} run on this host already")

"""One writer for a state: a lock that the system lets go of when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from streamseg.errors import ConfigError
from streamseg.transports.at_rest import opened


def hold(path: Path) -> int:
    """Holds the state for this process; the system lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = opened(f"{path}.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise ConfigError(
            f"another process (pid {holder or 'unknown'}) writes to this state",
            where=str(path),
            hint="stop it, or name another state with --state; `explain` and `segments` may read meanwhile",
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def is_held(path: str) -> bool:
    """Whether a process writes to the state now."""
    try:
        handle = os.open(f"{path}.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

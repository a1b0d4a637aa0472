"""Permissions of files that hold customers' data: only their owner reads them, unless configured otherwise."""

from __future__ import annotations

import os
from pathlib import Path

# Permissions of a state, of outputs, dead letters and locks.
OWNER_ONLY = 0o600


def opened(path: Path | str, flags: int, mode: int = OWNER_ONLY) -> int:
    """Open a file, and return its descriptor. Raises OSError.

    A new file gets exactly these permissions, whatever the umask. An existing one keeps its own.
    """
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(handle, mode)
    return handle

"""Files at rest: what is kept about customers is for the owner of the files alone, unless that was set otherwise."""

from __future__ import annotations

import os
from pathlib import Path

# Permissions of a state, of outputs, dead letters and locks.
OWNER_ONLY = 0o600


def opened(path: Path | str, flags: int, mode: int = OWNER_ONLY) -> int:
    """A file descriptor; a file that is not there yet is made with exactly these permissions. Raises OSError.

    One that is there keeps the permissions that somebody gave it.
    """
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(handle, mode)
    return handle

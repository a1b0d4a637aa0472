"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 120.0


def pause(seconds: float = 0.05) -> None:
    """Between two looks at a condition with a deadline."""
    time.sleep(seconds)


def until(condition: Callable[[], object], what: str | Callable[[], str], deadline_s: float = DEADLINE_S) -> float:
    """Wait for a condition. Returns the seconds that it took; raises AssertionError at the deadline.

    `what` is waited for, in words; a function of none gives them at the deadline.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > deadline_s:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what if isinstance(what, str) else what()}")
        pause(0.02)
    return time.monotonic() - began

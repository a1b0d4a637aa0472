"""Tests that only compute give way to those beside them that watch processes at work."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest


def _may_return() -> bool:
    """Whether this process may leave the class of idle processes again: see sched(7)."""
    if not hasattr(os, "SCHED_IDLE"):
        return False
    return os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20


@pytest.fixture(autouse=True)
def _in_idle_time() -> Iterator[None]:
    """Four tests run at once on two cores: an alert about slow tags would otherwise be about these tests."""
    if not _may_return():
        yield
        return
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

"""Programs that tests run beside the product."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """A tool's path; without it the test is skipped with the reason, and under CI it fails."""
    found = shutil.which(name)
    if found is None:
        reason = f"needs {name} (Debian: apt-get install prometheus systemd r-base-core)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found

"""Settings of the test run."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import exploring
from tests.broker import _kafka as _kafka

# The machine is shared: no test fails for being slow. CI draws the same examples every time.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    exploring.everything = config.option.markexpr == "exhaustive"

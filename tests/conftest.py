"""Settings of the test run."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.broker import _kafka as _kafka
from tests.broker import stop_shared_broker

# The machine is shared: no test fails for being slow. CI draws the same examples every time.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a module's fixture in one process; all others go wherever there is room."""
    for item in items:
        found = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - private in pytest's types
        if any(fixture.scope == "module" for fixtures in found.values() for fixture in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what processes of this run shared."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        stop_shared_broker(factory.getbasetemp())

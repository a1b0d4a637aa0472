"""How far tests explore: a part in the default run, everything in `pytest -m exhaustive`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

Test = TypeVar("Test", bound=Callable[..., Any])

# The default run draws one in so many of the examples, and at least so many.
_SHARE, _LEAST = 8, 4
# Set before tests are collected, in an exhaustive run.
everything = False


def explored(examples: int) -> Callable[[Test], Test]:
    """A Hypothesis test of so many examples: a few of them in the default run."""

    def wrapped(test: Test) -> Test:
        if everything:
            marked: Test = pytest.mark.exhaustive(settings(max_examples=examples)(test))
            return marked
        return settings(max_examples=max(_LEAST, examples // _SHARE))(test)

    return wrapped


def some(values: Iterable[Any], n: int = 1) -> list[Any]:
    """Parameters of a test: the first `n` in the default run, the others in an exhaustive one."""
    every = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=pytest.mark.exhaustive if i >= n else ()) for i, value in enumerate(every)]


def at_more_places(test: Test) -> Test:
    """A test that itself looks whether `everything` is explored: it is part of both runs."""
    marked: Test = pytest.mark.exhaustive(test) if everything else test
    return marked

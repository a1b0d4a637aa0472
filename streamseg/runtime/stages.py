"""What a batch's time goes to, and a span for each stage where somebody traces."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Stop(Protocol):
    """Says when to stop; `wait` returns early if it does."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Tracer(Protocol):
    """Makes spans."""

    def span(self, name: str, links: Sequence[bytes] = ()) -> AbstractContextManager[object]:
        """A span that lasts as long as the context; `links` are `traceparent`s of what led to it."""
        ...


class NoTracer:
    def span(self, name: str, links: Sequence[bytes] = ()) -> AbstractContextManager[object]:
        return nullcontext()


class Stages:
    """Seconds of each stage since they were last taken."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, links: Sequence[bytes] = ()) -> Iterator[None]:
        began = time.monotonic()
        with self._tracer.span(name, links):
            yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def taken(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, {}
        return seconds


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's cycle collector: a batch makes tens of thousands of objects, and few of them are in a cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

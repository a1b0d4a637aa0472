"""Is everything there that a job on files needs?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from streamseg.transports.files import Source
from streamseg.transports.finding import Finding, Sample, each, tried

_SAMPLE = 1_000


def examine_files(
    source: Callable[[], Source] | None,
    output: Path | None,
    state: Path,
    resume: Callable[[], None],
    sample: Sample,
) -> Iterator[Finding]:
    """Findings from the input to the state.

    `source`: opens the input; None for one that only comes once. `resume`: raises StreamsegError where a run would not go
    on from the state.
    """
    if source is None:
        yield Finding("input", None, "comes from a stream, of which nothing can be seen beforehand")
    else:
        yield from each("input", lambda: _events(source(), sample))
    if output is not None:
        yield _writable("output", output)
    yield tried("state", lambda: _resumed(state, resume)) if state.exists() else _writable("state", state)


def _events(source: Source, sample: Sample) -> Iterator[Finding]:
    source.settle(None)
    if source.in_words():
        yield Finding("format", True, source.in_words())
    values = source.read(0, _SAMPLE).values
    if not values:
        yield Finding("events", None, "the input is empty")
        return
    none = [None] * len(values)
    yield from sample.findings(none, values, none)


def _resumed(state: Path, resume: Callable[[], None]) -> str:
    resume()
    return f"{str(state)!r} is there, and a run goes on from it"


def _writable(what: str, path: Path) -> Finding:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        return Finding(what, False, f"{str(there)!r} is no directory: name another place")
    if not os.access(there, os.W_OK):
        return Finding(what, False, f"{str(there)!r} cannot be written: give this user the right to")
    return Finding(what, True, f"{str(path)!r} can be written")

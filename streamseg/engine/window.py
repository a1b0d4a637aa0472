"""Drift as the job measures it: of the latest distinct customers against those of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.model.drift import Drift, Yardstick
from streamseg.core.model.reference import Reference
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Array, Ints
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task

WINDOW = 2_000


class DriftMeter:
    """Drift of one worker's customers."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._yardstick: tuple[Reference, Yardstick] | None = None

    def measured(self, state: ModelState, window: Callable[[], tuple[Array, Ints]]) -> Drift | None:
        """Customers of late against the reference; None where there are too few of either. IN both."""
        reference = self._settings.reference or state.reference
        if reference is None or not state.ready:
            return None
        if self._yardstick is None or self._yardstick[0] is not reference:
            given = self._settings.reference is not None
            self._yardstick = reference, Yardstick(reference, self._settings.model, fixed=given)
        return self._yardstick[1].measured(state, *window())


def latest_customers(tasks: Iterable[Task], n_weighted: int, most: int) -> tuple[Array, Ints]:
    """Vectors (n_features, n) and segments (n,) of the customers who were there last, up to `most` in all.

    Customers who lack a weighted feature are left out. Of several partitions each gives its latest ones. IN all.
    """
    parts = list(tasks)
    share = -(-most // max(1, len(parts)))
    found = [_latest(task, n_weighted, share) for task in parts]
    if not found:
        return np.empty((0, 0)), np.empty(0, dtype=np.int64)
    return np.concatenate([x for x, _ in found], axis=1), np.concatenate([segments for _, segments in found])


def _latest(task: Task, n_weighted: int, most: int) -> tuple[Array, Ints]:
    times: Ints = task.table.column("time").astype(np.int64)
    rows = np.flatnonzero(times > NO_TIME)
    if len(rows) > most:
        rows = rows[np.argpartition(times[rows], len(rows) - most)[-most:]]
    x = task.table.vectors(rows, NO_TIME)
    known = ~np.isnan(x[:n_weighted]).any(axis=0)
    return x[:, known], task.table.column("segment")[rows[known]].astype(np.int64)


def unknown_features(tasks: Iterable[Task], settings: JobSettings) -> tuple[int, list[str]]:
    """How many customers there are, and the weighted features that none of them has. IN all."""
    names = settings.model.names[: settings.model.n_weighted]
    customers, known = 0, np.zeros(len(names), dtype=np.bool_)
    for task in tasks:
        rows = np.array(list(task.table.index.values()), dtype=np.int64)
        customers += len(rows)
        known |= (~np.isnan(task.table.vectors(rows, NO_TIME)[: len(names)])).any(axis=1)
    return customers, [name for name, there in zip(names, known.tolist(), strict=True) if not there]

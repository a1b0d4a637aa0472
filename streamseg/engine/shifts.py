"""Segments in short, with how far their centers have moved."""

from __future__ import annotations

import numpy as np

from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Array
from streamseg.engine.events import SegmentSummary


class Shifts:
    """Remembers the centers as of when the metric was set."""

    def __init__(self) -> None:
        self._baseline: tuple[list[int], int, Array] = ([], 0, np.empty((0, 0)))

    def summaries(self, state: ModelState, spec: ModelSpec) -> tuple[SegmentSummary, ...]:
        """By falling size; none before there is a model. IN state."""
        if not state.ready:
            return ()
        members = state.members
        total = sum(members.values()) or 1
        found = [
            SegmentSummary(s.id, s.name, members.get(s.id, 0), members.get(s.id, 0) / total, shift, since_birth)
            for s, shift, since_birth in zip(state.segments, *self._of(state, spec), strict=True)
        ]
        return tuple(sorted(found, key=lambda segment: -segment.customers))

    def _of(self, state: ModelState, spec: ModelSpec) -> tuple[list[float], list[float]]:
        """By segment, how far its center is from where it was when the metric was set, and when it was born."""
        champion, metric = state.tagging, state.metric
        ids, epoch, centers = self._baseline
        if (ids, epoch) != (state.ids, metric.epoch):
            centers = champion.centers.centers.copy()
            self._baseline = (state.ids, metric.epoch, centers)
        births = np.array([state.births[i] for i in state.ids]).T
        since_metric, since_birth = (
            np.sqrt(np.add.reduce((now - then) ** 2 * metric.inverse(spec)[:, None], axis=0)).tolist()
            for now, then in ((champion.centers.centers, centers), (champion.centers.centers, births))
        )
        return since_metric, since_birth

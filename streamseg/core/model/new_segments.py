"""Labels that an external model gives for the first time become segments."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from streamseg.core.model.spec import MAX_SEGMENTS
from streamseg.core.model.state import ModelState, Profile, Segment
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import Centers, means_of, side_by_side
from streamseg.core.numeric.types import Array, Ints
from streamseg.errors import ConfigError


def with_unnamed(state: ModelState, x: Array, labels: Ints) -> ModelState:
    """The state in which all labels are segments: itself, or one with segments for those that it does not know yet.

    IN state, x (n_weighted, n_rows), labels (n_rows,). Raises ConfigError where there are too many.
    """
    new = np.setdiff1d(labels, state.ids)
    if not len(new):
        return state
    among = np.isin(labels, new)
    means = means_of(x[:, among], np.searchsorted(new, labels[among]), np.ones(int(among.sum())), len(new))
    return with_segments(state, [newcomer(label, state.version + 1) for label in new.tolist()], means)


def places_of(state: ModelState, ids: Ints) -> Ints:
    """Places of segment ids among the state's segments; -1 for an id that is none."""
    known = np.array(state.ids, dtype=np.int64)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)
    return np.where(known[order[at]] == ids, order[at], -1)


def newcomer(label: int, version: int) -> Segment:
    """The segment of a label. Nobody knows yet what its customers are like, so its name is its number."""
    return Segment(label, f"Segment {label}", version, why="born")


def check_labels(n: int) -> None:
    """Raises ConfigError where a model of the user's gives too many."""
    if n > MAX_SEGMENTS:
        raise ConfigError(
            f"the model gives more than {MAX_SEGMENTS} labels", where="model.factory", hint="make it find fewer clusters"
        )


def with_segments(state: ModelState, segments: list[Segment], centers: Centers) -> ModelState:
    """The state with more segments, behind those that it has. IN all. Raises ConfigError where there are too many."""
    n = len(segments)
    check_labels(len(state.segments) + n)
    champion = state.tagging
    profile, empty = state.profile, Profile.empty(len(state.profile.weights), n)
    return replace(
        state,
        segments=[*state.segments, *segments],
        candidates=[replace(champion, centers=side_by_side([champion.centers, centers]))],
        profile=Profile(np.hstack([profile.weights, empty.weights]), np.hstack([profile.means, empty.means])),
        histogram=np.vstack([state.histogram, np.zeros((n, histogram.N_BINS))]),
        radii=None if state.radii is None else np.hstack([state.radii, np.full((2, n), np.nan)]),
    )

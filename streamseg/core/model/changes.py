"""Changes of a model that records of different kinds share: segments, members, the warm-up."""

from __future__ import annotations

import numpy as np

from streamseg.core.model.external import Unnamed
from streamseg.core.model.lineage import under_given_names
from streamseg.core.model.records import Delta, Upserts
from streamseg.core.model.reference import ROWS as REFERENCE_ROWS
from streamseg.core.model.reference import Reference
from streamseg.core.model.spec import WARM_UP_MOST, ModelSpec
from streamseg.core.model.state import Candidate, ModelState, Segment
from streamseg.core.numeric.clusters import Centers
from streamseg.core.numeric.types import Array

_REMEMBERED_RETIRED = 256


def note_births(state: ModelState) -> None:
    """Keep where each segment's center was at first, and discard retired segments. INOUT state."""
    centers = state.tagging.centers.centers
    state.births = {i: state.births.get(i) or centers[:, place].tolist() for place, i in enumerate(state.ids)}


def reset_candidates(state: ModelState, centers: list[Centers]) -> None:
    """Restart all candidates from these centers, unscored, under ids that no pending delta names. INOUT state."""
    state.candidates = [Candidate(state.next_candidate + i, i, each.copy()) for i, each in enumerate(centers)]
    state.next_candidate += len(centers)
    state.scored_weight, state.scored_rows = 0.0, 0


def take_segments(state: ModelState, segments: list[Segment], retired: list[Segment]) -> None:
    """Replace the segments, in a new epoch. INOUT state."""
    state.segments = under_given_names(segments, state.segments)
    state.retired = [*state.retired, *retired][-_REMEMBERED_RETIRED:]
    state.next_id = max(state.next_id, *(segment.id + 1 for segment in segments))
    state.members = {segment.id: state.members.get(segment.id, 0) for segment in segments}
    state.epoch += 1


def apply_batch(state: ModelState, spec: ModelSpec, change: Delta | Upserts, events: int) -> None:
    """What batches of both kinds change: counts, members, the external model, the warm-up. INOUT state, IN the others."""
    state.rows += change.rows
    state.clipped += change.clipped
    state.held_back += change.held_back
    state.customers += change.customers
    apply_external(state, spec, change.fed, change.unnamed)
    apply_moves(state, change.moved)
    apply_warm_up(state, spec, change, events)


def apply_moves(state: ModelState, moved: dict[int, int]) -> None:
    """Add to the number of customers in each segment. INOUT state."""
    for segment_id, change in moved.items():
        if segment_id in state.members:
            state.members[segment_id] += change
        elif segment_id in state.unnamed:
            state.unnamed[segment_id].members += change


def apply_external(state: ModelState, spec: ModelSpec, fed: Array | None, unnamed: dict[int, Unnamed]) -> None:
    """Train the external model on rows `fed` (n_weighted, n), and note its labels that are no segments yet. INOUT state."""
    if state.external is not None and fed is not None:
        state.external.learn(fed, spec)
    for label, new in unnamed.items():
        if label not in state.members:
            state.unnamed.setdefault(label, Unnamed(0, new.rows, list(new.mean)))


def apply_warm_up(state: ModelState, spec: ModelSpec, delta: Delta | Upserts, events: int) -> None:
    """Add rows of a warm-up, or of drift's reference, and erase customers from both. INOUT state."""
    warm_up = state.warm_up
    for key in delta.erased:
        warm_up.rows.pop(key, None)
    if state.reference is not None and delta.erased:
        state.reference = state.reference.without(delta.erased)
    if delta.warm_up is None or (state.ready and state.reference is not None):
        return
    if not state.ready:
        warm_up.events += events
    if warm_up.first_s is None:
        warm_up.first_s = delta.first_s
    rows = delta.warm_up
    for key, w, at, row in zip(rows.keys, rows.weights.tolist(), rows.at.tolist(), rows.x.T.tolist(), strict=True):
        # In the order of their last events, wherever those were cut into batches.
        warm_up.rows.pop(key, None)
        warm_up.rows[key] = (w, at, row)
    # Where no start is possible, as customers do not differ, the latest are kept, and a start comes when those do.
    for key in list(warm_up.rows)[: max(0, len(warm_up.rows) - WARM_UP_MOST * spec.warm_up)]:
        del warm_up.rows[key]
    if state.ready and len(warm_up.rows) >= min(spec.warm_up, REFERENCE_ROWS):
        take_reference(state, spec)


def take_reference(state: ModelState, spec: ModelSpec) -> None:
    """Make the customers of the warm-up the reference of drift. INOUT state."""
    kept = list(state.warm_up.rows.items())[:REFERENCE_ROWS]
    if spec.watched and kept:
        x = np.array([row for _, (_, _, row) in kept], dtype=np.float64).T
        state.reference = Reference([key for key, _ in kept], np.ascontiguousarray(x))
    state.warm_up.rows = {}

"""Apply: the one function that changes a model. Every worker runs it on every record of the model log, in log order.

Only + - * / and sqrt in a fixed order, and the kernel's own exp2. Whatever scikit-learn, a clock or a random number
decided is data in the record. A record that does not fit (candidates that no longer exist, a second start) changes nothing
but the version, so replicas stay in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import numpy as np
from msgspec.structs import replace

from streamseg.core.model.changes import (
    apply_batch,
    note_births,
    reset_candidates,
    take_reference,
    take_segments,
)
from streamseg.core.model.new_segments import with_segments
from streamseg.core.model.records import (
    Appeared,
    Asked,
    CandidateDelta,
    Delta,
    Described,
    Dropped,
    ModelChange,
    Postponed,
    Promoted,
    Refitted,
    Renamed,
    Rescaled,
    Searched,
    Start,
    Upserts,
)
from streamseg.core.model.reservoir import merged, trimmed
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import (
    Candidate,
    ModelState,
    Profile,
    Search,
    Trial,
    unsettled_metric,
)
from streamseg.core.model.table import SCORE_HALF_LIFE, apply_look, apply_upserts, start_epoch, start_table
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import Centers, apply_delta, apply_together, nearest_label
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.moments import Moments
from streamseg.core.numeric.portable_math import exp2_scalar
from streamseg.core.numeric.types import Array

# Half-life, in events, of the recent loss, which shows a rise.
FAST_HALF_LIFE = 250.0
# A search that found nothing doubles the wait for the next one, in events.
FIRST_WAIT, LONGEST_WAIT = 2_000, 8_000
# After a refit, or when the loss has risen: customers are not what they were, and may go on changing.
_SOON = 500


def apply(state: ModelState, spec: ModelSpec, change: ModelChange) -> bool:
    """Apply one record. INOUT state, IN change. Returns whether it counted; ignored records count for the version."""
    state.version += 1
    match change:
        case Delta():
            return _apply_delta(state, spec, change)
        case Upserts():
            return apply_upserts(state, spec, [change])
        case Refitted() | Rescaled():
            return apply_look(state, spec, change)
        case Start():
            return _apply_start(state, spec, change)
        case Searched():
            return _apply_searched(state, change)
        case Promoted():
            return _apply_promoted(state, spec, change)
        case Dropped():
            return _apply_dropped(state, change)
        case Appeared():
            return _apply_appeared(state, spec, change)
        case Asked():
            state.search.due, state.search.wait = state.rows, min(state.search.wait, _SOON)
            return state.ready
        case Postponed():
            state.warm_up.postponed = state.warm_up.events
            return not state.ready
        case Renamed() | Described():
            return _apply_names(state, change)


def apply_step(state: ModelState, spec: ModelSpec, changes: Sequence[Delta | Upserts]) -> None:
    """Apply the batches of a step, in log order, as one version. INOUT state, IN changes."""
    state.version += 1
    for kind, batches in groupby(changes, type):
        if kind is Upserts:
            apply_upserts(state, spec, cast("list[Upserts]", list(batches)))
            continue
        for delta in batches:
            _apply_delta(state, spec, cast("Delta", delta))


def _apply_start(state: ModelState, spec: ModelSpec, start: Start) -> bool:
    if state.ready:
        return False
    state.segments = list(start.segments)
    state.profile = start.profile.copy()
    state.moments = start.moments.copy()
    state.metric = start.metric
    state.natural = start.natural
    state.rules = dict(start.rules)
    state.next_id = max(segment.id for segment in start.segments) + 1
    state.members = {segment.id: 0 for segment in start.segments}
    take_reference(state, spec)
    state.search.wait, state.search.due = FIRST_WAIT, state.rows + FIRST_WAIT
    state.epoch += 1
    reset_candidates(state, [start.centers] * len(spec.speeds))
    state.histogram = _no_distances(state)
    if spec.table:
        start_table(state, spec, start)
    # What is longest remembered leads until another one is better.
    state.champion = len(state.candidates) - 1
    note_births(state)
    return True


def _no_distances(state: ModelState) -> Array:
    return np.zeros((len(state.segments), histogram.N_BINS))


def _apply_searched(state: ModelState, change: Searched) -> bool:
    search = state.search
    if not state.ready or change.number != search.number:
        return False
    search.number += 1
    if state.rows < search.due:
        # It was not due yet, so the loss had risen.
        search.wait = min(search.wait, _SOON)
    search.last, search.level = state.rows, state.mean_loss
    state.rules = {i: rule for i, rule in change.rules.items() if i in state.members}
    if change.kind is not None and change.centers is not None:
        challenger = Candidate(state.next_candidate, state.tagging.speed, change.centers.copy())
        state.next_candidate += 1
        state.trial = Trial(challenger, change.kind)
    else:
        _wait_longer(state)
    return True


def apply_fast_loss(search: Search, delta: Delta) -> None:
    """The recent loss after a batch. INOUT search, IN delta."""
    fast = exp2_scalar(-delta.rows / FAST_HALF_LIFE)
    search.fast_loss = search.fast_loss * fast + delta.fast_loss
    search.fast_weight = search.fast_weight * fast + delta.fast_weight
    search.fast_squares = search.fast_squares * fast * fast + delta.fast_squares


def _wait_longer(state: ModelState) -> None:
    state.search.due = state.rows + state.search.wait
    state.search.wait = min(2 * state.search.wait, LONGEST_WAIT)


def _apply_dropped(state: ModelState, change: Dropped) -> bool:
    if state.trial is None or state.trial.candidate.id != change.candidate:
        return False
    state.trial = None
    _wait_longer(state)
    return True


def _apply_promoted(state: ModelState, spec: ModelSpec, change: Promoted) -> bool:
    if change.segments is None:
        return _apply_promoted_half_life(state, spec, change)
    if state.trial is None or state.trial.candidate.id != change.candidate:
        return False
    challenger, state.trial = state.trial.candidate, None
    if change.profile is not None:
        state.profile = change.profile.copy()
    take_segments(state, change.segments, change.retired)
    state.rules = dict(change.rules)
    reset_candidates(state, [challenger.centers] * len(spec.speeds))
    state.histogram = _no_distances(state)
    state.champion = challenger.speed if change.speed is None else change.speed
    note_births(state)
    state.promotions += 1
    # What is new may have settled in a corner again, or have kept a segment that nobody comes to any more.
    state.search.wait, state.search.due = _SOON, state.rows + _SOON
    return True


def _apply_promoted_half_life(state: ModelState, spec: ModelSpec, change: Promoted) -> bool:
    found = [i for i, candidate in enumerate(state.candidates) if candidate.id == change.candidate]
    if not found or found == [state.champion]:
        return False
    reset_candidates(state, [state.candidates[found[0]].centers] * len(spec.speeds))
    state.champion = found[0]
    state.epoch += 1
    state.promotions += 1
    return True


def _apply_appeared(state: ModelState, spec: ModelSpec, change: Appeared) -> bool:
    new = [segment for segment in change.segments if segment.id in state.unnamed]
    if not state.ready or not new:
        return False
    found = [state.unnamed[segment.id] for segment in new]
    rows = np.array([one.rows for one in found])
    means = np.array([one.mean for one in found]).T.reshape(-1, len(new))
    more = with_segments(state, new, Centers(means, rows, rows.copy()))
    state.segments, state.candidates, state.profile, state.histogram = (
        more.segments, more.candidates, more.profile, more.histogram,
    )  # fmt: skip
    state.members |= {segment.id: one.members for segment, one in zip(new, found, strict=True)}
    state.unnamed = {i: one for i, one in state.unnamed.items() if i not in state.members}
    state.next_id = max(state.next_id, *(segment.id + 1 for segment in new))
    note_births(state)
    if spec.table:
        state.epoch += 1
        centers = state.tagging.centers
        total = float(np.add.reduce(centers.weights))
        start_epoch(state, spec, centers.centers, state.profile, centers.weights / (total or 1.0))
    return True


def _apply_names(state: ModelState, change: Renamed | Described) -> bool:
    if isinstance(change, Renamed):
        return _apply_renamed(state, change)
    before = state.segments
    state.segments = [
        replace(one, name=change.names[one.id], previous_name=one.name) if one.id in change.names and not one.given else one
        for one in state.segments
    ]
    state.misnamed, state.to_name = [], []
    return state.segments != before


def _apply_renamed(state: ModelState, change: Renamed) -> bool:
    taken = any(segment.name == change.name and segment.id != change.segment for segment in state.segments)
    if change.segment not in state.members or taken:
        return False
    state.segments = [
        replace(one, name=change.name, given=True) if one.id == change.segment else one for one in state.segments
    ]
    return True


def _apply_delta(state: ModelState, spec: ModelSpec, delta: Delta) -> bool:
    # What was there before the first event is as of that event.
    began = state.clock if state.clock != NEVER or delta.first_s is None else delta.first_s
    mine, theirs = spec.forgetting.meet(began, delta.clock, delta.age)
    after = max(state.clock, delta.clock)
    state.last_time = delta.last_time
    state.age += delta.age
    apply_batch(state, spec, delta, delta.events)
    if state.ready and delta.candidates:
        _apply_shared(state, spec, delta, mine, theirs)
        _apply_candidates(state, spec, delta, began)
        if delta.renewal is None and not state.metric.settled:
            state.metric = unsettled_metric(state.moments, state.tagging.centers.centers, state.metric.epoch)
    state.clock = after
    _apply_sample(state, spec, delta)
    return True


def _apply_shared(state: ModelState, spec: ModelSpec, delta: Delta, mine: float, theirs: float) -> None:
    """Moments, profiles, histograms, the metric: what belongs to no candidate."""
    state.moments.decay(mine)
    state.moments.merge(Moments(delta.moments.weight * theirs, delta.moments.mean, delta.moments.m2 * theirs))
    renewed = delta.renewal is not None and delta.epoch == state.metric.epoch
    if mine != 1.0:
        state.histogram = state.histogram * mine
    # What the champion was when it was told of: another one has other segments.
    same = any(part.id == state.tagging.id for part in delta.candidates)
    state.profile.decay(mine)
    if same:
        state.profile.merge(Profile(delta.profile.weights * theirs, delta.profile.means).widened(len(state.segments)))
    if renewed:
        state.histogram = np.zeros_like(state.histogram)
    if same and (renewed or (delta.renewal is None and delta.epoch == state.metric.epoch)):
        state.histogram.ravel()[delta.cells] += delta.cell_weights * theirs
    if renewed and delta.renewal is not None:
        state.metric = delta.renewal
        state.epoch += 1


def _apply_candidates(state: ModelState, spec: ModelSpec, delta: Delta, began: float) -> None:
    parts = {part.id: part for part in delta.candidates}
    fades = exp2_scalar(-delta.rows / SCORE_HALF_LIFE)
    for candidate in state.candidates:
        mine, theirs = spec.speeds[candidate.speed].meet(began, delta.clock, delta.age)
        part = parts.get(candidate.id)
        candidate.loss *= fades
        if part is None:
            candidate.centers.weights = candidate.centers.weights * mine
            continue
        _learned(candidate, part, mine, theirs)
        candidate.loss += part.loss
    if state.tagging.id in parts:
        state.scored_weight = state.scored_weight * fades + delta.scored_weight
        state.scored_rows += delta.rows
        apply_fast_loss(state.search, delta)
    trial, part_of_trial = state.trial, delta.trial
    if trial is not None and part_of_trial is not None and part_of_trial.candidate.id == trial.candidate.id:
        mine, theirs = spec.speeds[trial.candidate.speed].meet(began, delta.clock, delta.age)
        _learned(trial.candidate, part_of_trial.candidate, mine, theirs)
        trial.rows += delta.rows
        trial.loss += part_of_trial.candidate.loss
        trial.champion_loss += part_of_trial.champion_loss


def _learned(candidate: Candidate, part: CandidateDelta, mine: float, theirs: float) -> None:
    # A label that appeared since has a center that the delta does not know.
    added = part.centers.widened(len(candidate.centers.weights))
    if part.together is None:
        apply_delta(candidate.centers, added, mine, theirs)
    else:
        candidate.shift = apply_together(candidate.centers, candidate.moved, added, part.together, mine, theirs)


def _apply_sample(state: ModelState, spec: ModelSpec, delta: Delta) -> None:
    sample = state.sample.without(delta.erased_rows)
    if delta.sample is not None:
        sample = merged(sample, delta.sample)
        if state.ready:
            inverse = state.metric.inverse(spec)
            labels, _ = nearest_label(sample.x[: spec.n_weighted], state.tagging.centers.centers, inverse)
            sample = trimmed(sample, labels, len(state.segments))
    state.sample = sample

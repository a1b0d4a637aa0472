"""What is due: a pure function of the state, so that every worker, and `verify`, sees the same.

A half-life is promoted that loses 2 % less than the champion, over a few thousand events. Better centers are looked for ever
more rarely while nothing comes of it, and at once when the loss rises; what is found is tried on new events beside the
champion, and is promoted or dropped by them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import numpy as np

from streamseg.core.model.gaps import with_newborn, without_gaps
from streamseg.core.model.lineage import lineage
from streamseg.core.model.names import name_beside
from streamseg.core.model.new_segments import check_labels, newcomer
from streamseg.core.model.records import Appeared, Decision, Described, Dropped, Promoted
from streamseg.core.model.rules import rules_of
from streamseg.core.model.spec import SETTLING_ROWS, ModelSpec
from streamseg.core.model.state import ModelState, Search, Trial, profile_of, traits_now, traits_of
from streamseg.core.model.table import misnamed, table_step
from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.separation import dithered

# A candidate has to lose so much less; and what is about the least.
ADVANTAGE, ABOUT = 0.98, 1.01
# Events before candidates are compared, and on which a challenger is tried; far ahead, or behind, it is told sooner.
LEAST_SCORED, TRIAL_ROWS = 1_000, 2_000
# Ahead by a tenth after 500 events, by a twentieth after 1,000, and so on.
EARLY_ROWS, AHEAD_ROWS, BEHIND = 500, 50, 1.02
# A loss that has risen so much, and by so many standard errors, asks for a search at once, but not sooner after the last one
# than so many events.
_RISEN, _ERRORS, _APART = 1.15, 3.0, 500
# So much, and by so many standard errors, a table's loss is off where better centers are looked for at once.
_OFF, _OFF_ERRORS = 0.01, 2.0
# Where so many customers lie beyond what is counted, the metric is not theirs.
_BEYOND = 0.05

Due = Literal["appeared", "names", "half_life", "trial", "search"]


def due(state: ModelState, spec: ModelSpec) -> Due | None:
    """What is to be decided now.

    A half-life is there already, and waits for new segments alone: where the loss has risen, for a search, and for the trial
    of what was born. One that forgets fast would follow the newcomers with another segment's center.
    """
    if not state.ready:
        return None
    if state.unnamed:
        return "appeared"
    if spec.table:
        return "names" if state.to_name else "search" if _look_pending(state) else None
    trial = state.trial
    if trial is not None and _tried(trial):
        return "trial"
    if trial is None and spec.refits and _loss_has_risen(state.search, state.rows):
        return "search"
    if (trial is None or trial.kind != "born") and better_half_life(state) is not None:
        return "half_life"
    if trial is not None:
        return None
    return "search" if spec.refits and state.rows >= state.search.due else None


def _look_pending(state: ModelState) -> bool:
    """Whether the panel is to be looked at: by the schedule, or as customers are not what they were."""
    search, panel = state.search, state.panel
    assert panel is not None
    if not state.metric.settled:
        return int(np.count_nonzero(panel.common)) >= SETTLING_ROWS
    if state.rows >= search.due:
        return True
    if state.rows - search.last < table_step(state.customers):
        return False
    assert state.population is not None
    sums = state.population.sums
    if sums.outliers > _BEYOND * sums.evaluated:
        return True
    return abs(search.panel_loss - search.level) > max(_OFF * search.level, _OFF_ERRORS * search.panel_error)


def _tried(trial: Trial) -> bool:
    """Whether it is clear what becomes of a challenger. After a jump every event counts."""
    if trial.rows < EARLY_ROWS or (trial.kind != "refit" and trial.rows < TRIAL_ROWS):
        return False
    ahead = 1.0 - AHEAD_ROWS / trial.rows
    clear = trial.loss < ahead * trial.champion_loss or trial.loss > BEHIND * trial.champion_loss
    return clear or trial.rows >= TRIAL_ROWS


def better_half_life(state: ModelState) -> int | None:
    """Place of the candidate to be promoted, if one loses so much less; a tie keeps the champion.

    Of those that lose about the least, the one that remembers longest: what forgets faster than it must is led by noise.
    """
    if state.scored_rows < LEAST_SCORED or len(state.candidates) < 2:
        return None
    losses = [candidate.loss for candidate in state.candidates]
    best, champion = min(losses), losses[state.champion]
    better = [place for place, loss in enumerate(losses) if loss < ADVANTAGE * champion and loss <= ABOUT * best]
    return max(better, default=None)


def _loss_has_risen(search: Search, rows: int) -> bool:
    if search.fast_weight <= 0.0 or rows - search.last < _APART:
        return False
    if search.level <= 0.0 or search.fast_loss <= _RISEN * search.level * search.fast_weight:
        return False
    # Weights differ: a few new customers among many known ones are most of the loss, and vary as few do.
    return search.fast_loss - search.level * search.fast_weight > _ERRORS * math.sqrt(search.fast_squares)


def decided(state: ModelState, spec: ModelSpec, digest: bytes = b"") -> Decision | None:
    """The record of what is due, but for searches, which take scikit-learn and time. None where nothing is. IN all."""
    what, version = due(state, spec), state.version
    if what == "appeared":
        check_labels(len(state.segments) + len(state.unnamed))
        return Appeared(version, digest, [newcomer(label, version + 1) for label in sorted(state.unnamed)])
    if what == "names":
        return _described(state, spec, digest, state.to_name)
    if what == "half_life":
        better = better_half_life(state)
        assert better is not None
        return Promoted(version, digest, state.candidates[better].id)
    if what == "trial" and state.trial is not None:
        if not _stood(state, spec, state.trial):
            return Dropped(version, digest, state.trial.candidate.id)
        return _promoted(state, spec, digest)
    return None


def names_at_end(state: ModelState, spec: ModelSpec, digest: bytes) -> Described | None:
    """Names in place of those that do not fit when the input ends, at the first look: no second one will come. IN all."""
    if not (state.ready and spec.table):
        return None
    described = _described(state, spec, digest, misnamed(state, spec))
    renames = any(described.names.get(segment.id, segment.name) != segment.name for segment in state.segments)
    return described if renames else None


def _described(state: ModelState, spec: ModelSpec, digest: bytes, misfits: Collection[int]) -> Described:
    """Names for the segments with ids `misfits`, different from all others."""
    traits = traits_now(state, spec)
    taken = [segment.name for segment in state.segments if segment.id not in misfits]
    names: dict[int, str] = {}
    for place, segment in enumerate(state.segments):
        if segment.id in misfits:
            names[segment.id] = name_beside(traits, place, taken)
            taken.append(names[segment.id])
    return Described(state.version, digest, names)


def _stood(state: ModelState, spec: ModelSpec, trial: Trial) -> bool:
    """Whether a challenger is better, now that its trial is over. Fewer centers lose more: there, gaps decide alone."""
    if trial.kind == "joined":
        found = without_gaps(state, spec)
        return found is not None and found.shape[1] == len(trial.candidate.centers.weights)
    return trial.loss < ADVANTAGE * trial.champion_loss and (trial.kind == "refit" or _still_apart(state, spec, trial))


def _still_apart(state: ModelState, spec: ModelSpec, trial: Trial) -> bool:
    """Whether a new segment has a valley around it among the customers who came since it was found, too.

    One more center loses less wherever it is put, and of many places that are tried one has a valley by chance.
    """
    x, inverse, centers = state.sample.x[: spec.n_weighted], state.metric.inverse(spec), trial.candidate.centers.centers
    labels, _ = nearest_label(x, centers, inverse)
    return with_newborn(dithered(x, spec.seed), labels, centers, inverse) is not None


def _promoted(state: ModelState, spec: ModelSpec, digest: bytes) -> Promoted:
    trial = state.trial
    assert trial is not None
    n, inverse, sample = spec.n_weighted, state.metric.inverse(spec), state.sample
    new, k = trial.candidate.centers.centers, len(trial.candidate.centers.weights)
    before, _ = nearest_label(sample.x[:n], state.tagging.centers.centers, inverse)
    after, _ = nearest_label(sample.x[:n], new, inverse)
    found = lineage(
        state.segments, before, after, k, traits_of(spec, new, state.metric), state.next_id, state.version + 1, trial.kind
    )
    profile = profile_of(sample.x[n:], after, np.ones(sample.n_rows), k)
    rules = rules_of(sample.x[:n], after, [segment.id for segment in found.segments], spec)
    # Refit after refit would begin the half-lives' race anew each time, so that none would ever be long enough ahead.
    speed = better_half_life(state) if trial.kind == "refit" else None
    return Promoted(state.version, digest, trial.candidate.id, found.segments, found.retired, profile, rules, speed)

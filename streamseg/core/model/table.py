"""Apply to a table of customers: upserts, the epochs that their sums belong to, and decisions made on the panel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from streamseg.core.model.changes import apply_batch, note_births, reset_candidates, take_segments
from streamseg.core.model.gains import with_copy
from streamseg.core.model.names import outdated
from streamseg.core.model.panel import Panel, PanelRows
from streamseg.core.model.population import Population
from streamseg.core.model.records import Refitted, Rescaled, Start, Upserts
from streamseg.core.model.spec import STEP, ModelSpec
from streamseg.core.model.state import Candidate, ModelState, Profile, profile_of, traits_now, unsettled_metric
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import Centers, nearest_label
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.moments import moments_of_rows
from streamseg.core.numeric.portable_math import exp2_scalar, signed_expm1
from streamseg.core.numeric.types import Array, Flags, Ints, sums_by_label

# Events after which a loss counts half.
SCORE_HALF_LIFE = 4_000.0
# Customers beyond this many times the 95th percentile of their segment's squared distances lie far off.
FAR = 2.0
# A segment's percentiles are not known from customers of less weight.
_LEAST_WEIGHT = 20.0
# An event's loss, and a customer's, counts for at most so many times the mean.
CLIPPED_AT = 10.0
# Events between two looks at the names.
_NAME_ROWS = 2_000
# Larger multiples of a deviation are clipped, or of profile features left out: single precision ends at 3e38.
_LARGEST = 1e30
# How many steps the longest wait between two looks at the panel has; the customers from which on steps grow.
_MOST_STEPS, _FEW_CUSTOMERS = 16, 5_000


def start_epoch(
    state: ModelState, spec: ModelSpec, centers: Array, profile: Profile, share: Array, expected: float = 0.0
) -> None:
    """Reset the sums. INOUT state, whose epoch has just changed.

    `centers` (n_weighted, k), `profile` and `share` (k,) of the customers stand in until all are evaluated again;
    `expected` is the least number of customers that they stand for.
    """
    metric, n = state.metric, spec.n_weighted
    state.population = Population.for_epoch(
        state.epoch,
        metric.origin,
        np.sqrt(metric.variance),
        settled=metric.settled,
        grouped=spec.categories,
        start=centers,
        profile=np.where(profile.weights > 0.0, profile.means, np.nan),
        share=share,
        expected=expected,
        logged=spec.logged,
    )
    state.passed = state.rows
    k = centers.shape[1]
    panel = state.panel if state.panel is not None else Panel.empty(len(spec.features), k)
    places, squared = nearest_label(panel.x[:n], centers, metric.inverse(spec))
    inside = ~state.population.outliers(panel.x)
    raw = signed_expm1(panel.x[state.population.logged][:, inside])
    of_panel = profile_of(raw, places[inside], panel.weights[inside], k)
    state.population.start_profile[len(profile.means) :] = np.where(of_panel.weights > 0.0, of_panel.means, np.nan)
    _take_centers(state)
    radii = radii_of(places[inside], squared[inside], panel.weights[inside], k)
    state.panel = panel.for_epoch(places, far_off(squared, places, radii), k)
    _look_at_panel(state, spec, state.panel)


def _take_sums(state: ModelState, change: Upserts) -> None:
    """INOUT state, IN change. Sums of an earlier epoch are discarded: the current sweep evaluates those rows again."""
    assert state.population is not None
    assert state.panel is not None
    same = change.epoch == state.population.epoch
    if same:
        state.population = state.population.with_sums(change.sums)
    rows, gone = _panel_rows(state.population, change.panel if same else _none(change.panel)), change.gone.astype(np.int64)
    state.panel = state.panel.changed(rows, gone)
    if len(gone):
        state.copies = [copy.without(gone) for copy in state.copies]


def _step(state: ModelState, spec: ModelSpec, changes: Sequence[Upserts]) -> None:
    """Update centers, and what is known from the panel, from the sums. INOUT state, IN changes that were added to them."""
    rows = sum(change.rows for change in changes)
    fades = exp2_scalar(-rows / SCORE_HALF_LIFE)
    state.tagging.loss = state.tagging.loss * fades + sum(change.loss for change in changes)
    state.scored_weight = state.scored_weight * fades + rows
    state.scored_rows += rows
    assert state.panel is not None
    _schedule_pass(state)
    _take_centers(state)
    state.panel = state.panel.thinned()
    _look_at_panel(state, spec, state.panel)
    if spec.drift_horizon_s is not None and state.clock != NEVER:
        state.copies = with_copy(state.copies, state.panel, state.clock, spec.drift_horizon_s)
    # Early on, when customers change most, sooner: a short stream is to end with names that fit.
    if state.rows - state.looked >= min(_NAME_ROWS, max(STEP, state.looked // 8)):
        _look_at_names(state, spec)


def _look_at_names(state: ModelState, spec: ModelSpec) -> None:
    """Select for renaming the segments whose names did not fit their customers at two looks in a row. INOUT state."""
    now = misnamed(state, spec)
    state.to_name = [i for i in now if i in state.misnamed]
    state.misnamed, state.looked = now, state.rows


def misnamed(state: ModelState, spec: ModelSpec) -> list[int]:
    """Ids of segments whose names, unless a person gave them, do not fit their customers. IN all."""
    traits = traits_now(state, spec)
    names = [segment.name for segment in state.segments]
    return [
        segment.id
        for place, segment in enumerate(state.segments)
        if not segment.given and outdated(segment.name, traits, place, names)
    ]


def panel_rows(population: Population, keys: Ints, x: Array, places: Ints, far: Flags) -> PanelRows:
    """Rows as a record holds them, in about standard deviations, within single precision. IN all."""
    origin, unit = population.relative
    relative = (x - origin) / unit
    n = population.n_weighted
    relative[:n] = np.minimum(np.maximum(relative[:n], -_LARGEST), _LARGEST)
    relative[n:][np.abs(relative[n:]) > _LARGEST] = np.nan
    return PanelRows(keys.astype(np.uint32), relative.astype(np.float32), places.astype(np.uint8), far)


def _panel_rows(population: Population, rows: PanelRows) -> Panel:
    origin, unit = population.relative
    x = origin + rows.x.astype(np.float64) * unit
    return Panel(rows.keys.astype(np.int64), x, rows.places.astype(np.int64), rows.far, 0, np.zeros(0, dtype=np.int64), 0)


def _none(rows: PanelRows) -> PanelRows:
    return PanelRows(rows.keys[:0], rows.x[:, :0], rows.places[:0], rows.far[:0])


def _schedule_pass(state: ModelState) -> None:
    """Request a pass over the table, which is a step of Lloyd's algorithm. INOUT state.

    One follows the first complete sweep of an epoch, and one comes after as many events as there are customers.
    """
    population = state.population
    assert population is not None
    first = not population.complete and population.sums.evaluated >= state.customers
    if first or state.rows - state.passed >= max(state.customers, STEP):
        state.population = replace(population, complete=population.complete or first)
        state.passes, state.passed = state.passes + 1, state.rows


def _take_centers(state: ModelState) -> None:
    population = state.population
    assert population is not None
    centers, counts = population.centers(state.customers), population.sums.counts.astype(np.float64)
    if state.candidates:
        candidate = state.candidates[0]
        candidate.centers = Centers(centers, counts, counts)
    else:
        state.candidates = [Candidate(state.next_candidate, 0, Centers(centers, counts, counts))]
    known, means = population.profile(state.customers)
    n_profile = len(known) - len(population.logged)
    state.profile = Profile(known[:n_profile], means[:n_profile])
    state.raw_means = np.where(known[n_profile:] > 0.0, means[n_profile:], np.nan)


def _look_at_panel(state: ModelState, spec: ModelSpec, panel: Panel) -> None:
    """Update from the panel: moments, percentiles of distances, and the loss that schedules refits. INOUT state."""
    assert state.population is not None
    n, panel = spec.n_weighted, panel.take(~state.population.outliers(panel.x))
    weights = panel.weights
    if panel.n_rows:
        state.moments = moments_of_rows(panel.x, weights, n)
        # z values are relative to the customers' present mean; distances keep their variances.
        state.metric = replace(state.metric, origin=state.moments.mean)
        if not state.metric.settled:
            state.metric = unsettled_metric(state.moments, state.tagging.centers.centers, state.metric.epoch)
    centers = state.tagging.centers.centers
    _, squared = nearest_label(panel.x[:n], centers, state.metric.inverse(spec))
    state.radii = radii_of(panel.places, squared, weights, centers.shape[1])
    state.search.panel_loss, state.search.panel_error = loss_of(squared[panel.common])


def loss_of(squared: Array) -> tuple[float, float]:
    """Mean squared distance, each clipped at ten times the mean, and its standard error. IN squared (n,)."""
    n = len(squared)
    if n == 0:
        return 0.0, 0.0
    clipped = np.minimum(squared, CLIPPED_AT * float(np.add.reduce(squared)) / n)
    mean = float(np.add.reduce(clipped)) / n
    off = clipped - mean
    return mean, math.sqrt(float(np.add.reduce(off * off))) / n


def radii_of(places: Ints, squared: Array, weights: Array, k: int) -> Array:
    """Median and 95th percentile of each segment's squared distances, (2, k), NaN where too few are known. IN all."""
    radii = np.full((2, k), np.nan)
    order = np.lexsort((squared, places))
    places, squared, weights = places[order], squared[order], weights[order]
    edges = np.searchsorted(places, np.arange(k + 1))
    for place in range(k):
        rows = slice(edges[place], edges[place + 1])
        reached = np.cumsum(weights[rows])
        if len(reached) and reached[-1] >= _LEAST_WEIGHT:
            at = np.searchsorted(reached, np.array([0.5, 0.95]) * reached[-1])
            radii[:, place] = squared[rows][np.minimum(at, len(reached) - 1)]
    return radii


def far_off(squared: Array, places: Ints, radii: Array | None) -> Flags:
    """Which rows lie far from their center, (n,); none where the percentiles are unknown. IN all."""
    if radii is None or not len(places):
        return np.zeros(len(places), dtype=np.bool_)
    most = FAR * np.where(np.isnan(radii[1]), np.inf, radii[1])
    return np.asarray(squared > most[places])


def start_table(state: ModelState, spec: ModelSpec, start: Start) -> None:
    """Start the first epoch. A model file stands for as many customers as it was fitted on. INOUT state."""
    weights = start.centers.weights
    total = float(np.add.reduce(weights))
    share = weights / total if total > 0.0 else np.full(len(weights), 1.0 / len(weights))
    state.search.wait, state.search.due = STEP, state.rows + STEP
    start_epoch(state, spec, start.centers.centers, start.profile, share, 0.0 if state.customers else total)


def table_step(customers: int) -> int:
    """Least number of events between two looks at the panel. It grows with the customers: each event changes less."""
    return int(STEP * max(1.0, math.sqrt(customers / _FEW_CUSTOMERS)))


def apply_upserts(state: ModelState, spec: ModelSpec, changes: Sequence[Upserts]) -> bool:
    """Apply the batches of a step: the same, wherever it was cut into batches. INOUT state, IN changes. Always counts."""
    for change in changes:
        apply_batch(state, spec, change, change.rows)
        if state.population is not None:
            _take_sums(state, change)
        state.clock = max(state.clock, change.clock)
    if state.population is not None:
        _step(state, spec, changes)
    return True


def apply_look(state: ModelState, spec: ModelSpec, change: Refitted | Rescaled) -> bool:
    """Apply the result of a look at the panel. INOUT state, IN change. Returns whether it counted."""
    if not state.ready or change.number != state.search.number:
        return False
    state.search.number += 1
    if isinstance(change, Rescaled):
        _apply_rescaled(state, spec, change)
    else:
        _apply_refitted(state, spec, change)
    return True


def _apply_refitted(state: ModelState, spec: ModelSpec, change: Refitted) -> None:
    search, step = state.search, table_step(state.customers)
    if state.rows < search.due:
        # Customers are not what they were, and may go on changing.
        search.wait = step
    search.last, search.level, search.due = state.rows, search.panel_loss, state.rows + search.wait
    search.wait = min(2 * search.wait, _MOST_STEPS * step)
    if change.centers is None:
        return
    state.rules = dict(change.rules)
    state.histogram = np.zeros((len(change.segments), histogram.N_BINS))
    take_segments(state, change.segments, change.retired)
    reset_candidates(state, [Centers(change.centers, np.zeros(len(change.segments)), np.zeros(len(change.segments)))])
    start_epoch(state, spec, change.centers, *_of_panel(state, spec, change.centers))
    search.level = search.panel_loss
    note_births(state)
    state.promotions += 1


def _apply_rescaled(state: ModelState, spec: ModelSpec, change: Rescaled) -> None:
    state.search.last, state.search.due = state.rows, state.rows + STEP
    state.metric = change.metric
    state.epoch += 1
    centers = state.tagging.centers.centers
    start_epoch(state, spec, centers, *_of_panel(state, spec, centers))
    state.search.level = state.search.panel_loss


def _of_panel(state: ModelState, spec: ModelSpec, centers: Array) -> tuple[Profile, Array]:
    """Of each segment among the panel's customers: its profile, and its share (k,)."""
    n, k = spec.n_weighted, centers.shape[1]
    panel, population = state.panel, state.population
    assert panel is not None
    assert population is not None
    panel = panel.take(~population.outliers(panel.x))
    if not panel.n_rows:
        return Profile.empty(len(spec.features) - n, k), np.full(k, 1.0 / k)
    places, _ = nearest_label(panel.x[:n], centers, state.metric.inverse(spec))
    sizes = sums_by_label(places, panel.weights, k)
    share: Array = sizes / np.add.reduce(sizes)
    return profile_of(panel.x[n:], places, panel.weights, k), share

"""Sums of a table of customers: exact, whatever the order, and the means of the members after a sweep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.model.panel import Panel, PanelRows
from streamseg.core.model.population import BAND, Population, Sums
from streamseg.core.model.table import far_off, loss_of, panel_rows, radii_of

K = 3


def population(expected: float = 0.0) -> Population:
    return Population.for_epoch(
        1,
        np.array([10.0, -3.0, 0.0]),
        np.array([2.0, 0.5, 7.0]),
        settled=True,
        grouped=np.array([False, False]),
        start=np.array([[8.0, 10.0, 12.0], [-3.0, -3.0, -3.0]]),
        profile=np.full((1, K), np.nan),
        share=np.array([0.5, 0.25, 0.25]),
        expected=expected,
    )


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.array([[10.0], [-3.0], [0.0]]) + rng.normal(size=(3, n)) * np.array([[2.0], [0.5], [7.0]])
    x[2, rng.random(n) < 0.3] = np.nan
    return x, rng.integers(K, size=n)


def same(one: Sums, other: Sums) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)


@given(st.integers(0, 50), st.integers(1, 400), st.integers(1, 5))
def test_sums_do_not_depend_on_order_or_grouping_and_can_be_undone(seed: int, n: int, parts: int) -> None:
    here = population()
    x, places = rows(n, seed)
    whole = here.contribution(x, places)
    order = np.random.default_rng(seed + 1).permutation(n)
    summed = Sums.empty(3, 1, K)
    for part in np.array_split(order, parts):
        summed = summed.plus(here.contribution(x[:, part], places[part]))
    assert same(whole, summed)
    gone, stay = order[: n // 2], order[n // 2 :]
    assert same(whole.plus(here.contribution(x[:, gone], places[gone]), -1), here.contribution(x[:, stay], places[stay]))


def test_centers_are_the_means_of_the_members_once_all_were_seen() -> None:
    here, (x, places) = population(), rows(9_000, 3)
    sums = here.contribution(x, places)
    sums.evaluated = 9_000
    found = here.with_sums(sums)
    expected = np.stack([x[:2, places == j].mean(axis=1) for j in range(K)], axis=1)
    assert found.centers(9_000) == pytest.approx(expected, rel=1e-9)
    known, means = found.profile(9_000)
    assert known[0].tolist() == [float((~np.isnan(x[2, places == j])).sum()) for j in range(K)]
    assert means[0] == pytest.approx([np.nanmean(x[2, places == j]) for j in range(K)], rel=1e-9)


def test_customers_that_were_not_seen_yet_stay_where_the_epoch_began() -> None:
    here = population()
    assert here.centers(100).tolist() == here.start.tolist()
    one = here.contribution(np.array([[9.0], [-2.0], [np.nan]]), np.array([0]))
    one.evaluated = 1
    # 49.5 of the 99 others are expected beside it.
    moved = here.with_sums(one).centers(100)
    lacks = 99 * 49 / (49 + 25 + 25)
    assert moved[0].tolist() == pytest.approx([(9.0 + lacks * 8.0) / (1 + lacks), 10.0, 12.0])
    assert here.with_sums(one).centers(1)[0, 0] == 9.0
    assert population(expected=100.0).with_sums(one).centers(1)[0, 0] == pytest.approx(moved[0, 0])


def test_customers_far_off_are_not_counted_and_are_told() -> None:
    here = population()
    x = np.array([[10.0, 10.0 + BAND * 4.1, 1e30], [-3.0, -3.0, -3.0], [0.0, 0.0, 1e30]])
    found = here.contribution(x, np.array([0, 1, 2]))
    assert (found.outliers, found.counts.tolist()) == (2, [1, 0, 0])
    # A profile value that is far beyond the others is not in the mean either.
    odd = here.contribution(np.array([[10.0], [-3.0], [1e30]]), np.array([0]))
    assert (odd.counts.tolist(), odd.known.tolist()) == ([1, 0, 0], [[0, 0, 0]])


def panel_of(keys: list[int], places: list[int], far: list[int] | None = None) -> Panel:
    flags = np.isin(np.arange(len(keys)), far or [])
    integers = np.array(keys, dtype=np.int64), np.array(places, dtype=np.int64)
    return Panel(integers[0], np.zeros((1, len(keys))), integers[1], flags, 0, np.zeros(2, dtype=np.int64), 0)


def test_the_panel_stays_small_keeps_rare_segments_and_weighs_what_it_stands_for() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 2**32, 60_000))
    places = (rng.random(len(keys)) < 0.01).astype(np.int64)
    panel = Panel.empty(1, 2)
    for part in np.array_split(rng.permutation(len(keys)), 20):
        new = panel_of(keys[part].tolist(), places[part].tolist())
        inside = panel.includes(new.keys, new.places, new.far)
        panel = panel.changed(new.take(inside), np.zeros(0, dtype=np.int64)).thinned()
    assert 2_000 <= np.count_nonzero(panel.common) < 4_000
    assert np.count_nonzero(panel.places == 1) >= 100
    assert panel.weights.sum() == pytest.approx(len(keys), rel=0.1)
    assert panel.weights[panel.places == 1].sum() == pytest.approx(places.sum(), rel=0.35)
    assert (np.diff(panel.keys) > 0).all()
    gone = panel.keys[:500]
    assert not np.isin(panel.changed(panel_of([], []), gone).keys, gone).any()


def test_rows_above_a_threshold_that_another_worker_raised_are_left_out() -> None:
    here = panel_of([5, 1 << 29], [0, 0])
    here.level, here.levels, here.far_level = 2, np.array([2, 2]), 2
    late = panel_of([1 << 29, 7, 1 << 31], [0, 0, 1])
    assert here.changed(late, np.zeros(0, dtype=np.int64)).keys.tolist() == [5, 7, 1 << 29]


def test_levels_fall_where_an_epoch_begins_with_fewer_customers() -> None:
    few = panel_of([key << 20 for key in range(200)], [0] * 200)
    few.level, few.levels = 3, np.array([3, 3])
    begun = few.for_epoch(np.zeros(200, dtype=np.int64), np.zeros(200, dtype=np.bool_), 2)
    assert begun.level == 0
    assert begun.n_rows == 200


def test_panel_rows_come_back_in_single_precision() -> None:
    here = population()
    x = np.array([[11.0, 1e60], [-3.1, -3.0], [5.0, 1e60]])
    packed = panel_rows(here, np.array([7, 9]), x, np.array([0, 2]), np.array([False, True]))
    assert isinstance(packed, PanelRows)
    assert packed.x.dtype == np.float32
    origin, unit = here.relative
    back = origin + packed.x.astype(np.float64) * unit
    assert back[:, 0] == pytest.approx(x[:, 0], rel=1e-6)
    assert np.isfinite(packed.x[0, 1])
    assert np.isnan(packed.x[2, 1])


def test_percentiles_weigh_their_rows() -> None:
    squared = np.arange(1.0, 41.0)
    places, weights = np.repeat([0, 1], [30, 10]), np.ones(40)
    radii = radii_of(places, squared, weights, 2)
    assert radii[:, 0].tolist() == [15.0, 29.0]
    assert np.isnan(radii[:, 1]).all()
    heavier = radii_of(places, squared, np.where(places == 1, 4.0, 1.0), 2)
    assert heavier[0, 1] == 35.0
    assert far_off(np.array([59.0, 57.0]), np.array([0, 0]), radii).tolist() == [True, False]
    assert not far_off(np.array([1e9]), np.array([1]), radii).any()


def test_one_far_customer_hardly_changes_the_loss() -> None:
    ordinary = np.full(1_000, 2.0)
    assert loss_of(ordinary) == (2.0, 0.0)
    mean, error = loss_of(np.append(ordinary, 1e9))
    assert mean < 1e7 * 10
    assert error > 0.0
    assert loss_of(np.zeros(0)) == (0.0, 0.0)

"""Assignment and learning of centers."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.core.numeric.clusters import (
    BLOCK_ROWS,
    Centers,
    Step,
    apply_delta,
    apply_together,
    clip_to_centers,
    driver_shares,
    margin,
    nearest,
    nearest_label,
)
from streamseg.core.numeric.metric import inverse_of, is_off, shared_variance, squared_distances, squared_distances_between
from streamseg.core.numeric.types import Array

FLINK_BATCH = np.array([[10.0, 10.0, 10.3, -10.0, -10.0, -10.6], [100.0, 100.3, 100.0, -100.0, -100.6, -100.0]])


def step_batch(centers: Centers, x: Array, factor: float) -> Centers:
    step = Step([centers], np.zeros(len(x)))
    labels, _ = nearest_label(x, step.centers, np.ones(len(x)))
    step.decay(np.array([factor]))
    step.learn(x, labels[None], np.ones((1, x.shape[1])), np.ones(x.shape[1]), np.array([np.inf]))
    merged = centers.copy()
    apply_delta(merged, step.deltas()[0], factor, 1.0)
    assert merged.centers == pytest.approx(step.centers, rel=1e-13)
    return merged


@pytest.mark.parametrize(
    ("decay", "centers", "weight"),
    [(0.5, [[10.1, -10.2], [200.3 / 3, -200.2 / 3]], 4.5), (0.0, [[10.1, -10.2], [100.1, -100.2]], 3.0)],
)
def test_batch_decay_gives_the_values_of_flink_ml(decay: float, centers: list[list[float]], weight: float) -> None:
    """OnlineKMeansTest.testDecayFactor of Flink ML."""
    start = Centers(np.array([[10.1, -10.2], [0.1, 0.2]]), np.full(2, 3.0), np.full(2, 3.0))
    merged = step_batch(start, FLINK_BATCH, decay)
    assert merged.centers == pytest.approx(np.array(centers), rel=1e-12)
    assert merged.weights.tolist() == [weight, weight]


def test_a_center_without_hits_stays_where_it_is_to_the_bit_even_when_all_is_forgotten() -> None:
    start = Centers(np.array([[10.1, 0.1 + 0.2], [0.1, 1e9 + 0.7]]), np.full(2, 3.0), np.full(2, 3.0))
    merged = step_batch(start, FLINK_BATCH[:, :3] / 10, 0.0)
    assert merged.centers[:, 1].tobytes() == start.centers[:, 1].tobytes()
    assert merged.weights[1] == 0.0


def test_a_delta_of_two_blocks_gives_what_one_after_the_other_gives() -> None:
    rng = np.random.default_rng(0)
    start = Centers(rng.normal(size=(3, 4)), rng.random(4) * 5, np.full(4, 9.0))
    origin = np.full(3, 0.5)
    step, one_by_one = Step([start], origin), start.copy()
    for _ in range(2):
        x = rng.normal(size=(3, 50))
        labels, _ = nearest_label(x, start.centers, np.ones(3))
        single = Step([one_by_one], origin)
        for each in (step, single):
            each.decay(np.array([0.25]))
            each.learn(x - origin[:, None], labels[None], np.ones((1, 50)), np.ones(50), np.array([np.inf]))
        apply_delta(one_by_one, single.deltas()[0], 0.25, 1.0)
    at_once = start.copy()
    apply_delta(at_once, step.deltas()[0], 0.0625, 1.0)
    assert at_once.centers == pytest.approx(one_by_one.centers, rel=1e-12)
    assert at_once.weights == pytest.approx(one_by_one.weights, rel=1e-12)


def following(start: Centers, x: Array, half_life: float = 50.0) -> Step:
    """A step of one candidate that follows together, after rows of one segment at a time."""
    step = Step([start], np.zeros(len(x)), np.array([half_life]))
    for first in range(0, x.shape[1], 250):
        rows = x[:, first : first + 250]
        labels, _ = step.nearest(rows, np.ones(len(x)))
        n = rows.shape[1]
        step.learn(rows, labels, np.ones((1, n)), np.ones(n), np.array([np.inf]))
    return step


def drifting(seed: int, drift: float = 8.0, n: int = 2_000) -> tuple[Centers, Array]:
    """Three segments that all drift alike, of which the third has no rows; and centers where they began."""
    rng = np.random.default_rng(seed)
    truth = np.array([[0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    x = truth[:, rng.integers(2, size=n)] + rng.normal(size=(2, n)) / 2 + drift * np.arange(n) / n
    return Centers(truth, np.full(3, 1e4), np.full(3, 1e4)), x


def test_centers_that_follow_together_go_with_a_common_shift_and_take_the_idle_ones_along() -> None:
    start, x = drifting(0, 2.0)
    step = following(start, x)
    assert np.abs(step.centers - (start.centers + 2.0)).max() < 0.5
    alone = Step([start], np.zeros(2))
    labels, _ = alone.nearest(x, np.ones(2))
    alone.learn(x, labels, np.ones((1, 2_000)), np.ones(2_000), np.array([np.inf]))
    assert alone.centers[:, 2].tolist() == start.centers[:, 2].tolist()


def test_a_delta_of_centers_that_followed_gives_what_the_step_arrived_at() -> None:
    start, x = drifting(1)
    step, merged, base = following(start, x), start.copy(), np.array([3.0, -2.0])
    together = step.together(0, base)
    assert together is not None
    now = apply_together(merged, base, step.deltas()[0], together, 1.0, 1.0)
    assert merged.centers == pytest.approx(step.centers, rel=1e-12)
    assert now == pytest.approx(base + step.shift[:, 0])
    assert Step([start], np.zeros(2)).together(0, base) is None


@pytest.mark.parametrize("n_workers", [2, 5])
def test_workers_that_saw_the_same_shift_do_not_follow_it_twice(n_workers: int) -> None:
    start, at = drifting(0)[0], np.zeros(2)
    merged = start.copy()
    for seed in range(n_workers):
        step = following(start, drifting(seed)[1])
        together = step.together(0, np.zeros(2))
        assert together is not None
        at = apply_together(merged, at, step.deltas()[0], together, 1.0, 1.0)
    assert np.abs(merged.centers - (start.centers + 8.0)).max() < 1.0


def test_max_gain_holds_a_faded_center_back() -> None:
    start = Centers(np.array([[0.0]]), np.array([1e-9]), np.array([50.0]))
    step = Step([start], np.zeros(1))
    step.learn(np.array([[1.0]]), np.array([[0]]), np.ones((1, 1)), np.ones(1), np.array([0.1]))
    assert step.centers[0, 0] == pytest.approx(0.1)
    merged = start.copy()
    apply_delta(merged, step.deltas()[0], 1.0, 1.0)
    assert merged.centers[0, 0] == pytest.approx(0.1)


def test_a_young_center_gains_at_most_one_over_n() -> None:
    start = Centers(np.array([[0.0]]), np.array([0.0]), np.array([3.0]))
    step = Step([start], np.zeros(1))
    step.learn(np.array([[1.0]]), np.array([[0]]), np.ones((1, 1)), np.ones(1), np.array([0.1]))
    assert step.centers[0, 0] == pytest.approx(1 / 4)


def test_ties_go_to_the_first_center_and_margin_is_zero_there() -> None:
    x, centers = np.array([[0.0, 1.0]]), np.array([[-1.0, 1.0]])
    near = nearest(x, centers, np.ones(1))
    assert near.labels.tolist() == [0, 1]
    assert margin(near, squared_distances_between(centers, np.ones(1))).tolist() == [0.0, 1.0]


def test_driver_shares_add_up_to_one() -> None:
    rng = np.random.default_rng(3)
    x, centers, inverse = rng.normal(size=(4, 30)), rng.normal(size=(4, 5)), rng.random(4)
    near = nearest(x, centers, inverse)
    assert driver_shares(x, near, centers, inverse).sum(axis=0) == pytest.approx(np.ones(30), abs=1e-9)


def test_one_center_has_no_runner_up() -> None:
    near = nearest(np.array([[1.0]]), np.array([[0.0]]), np.ones(1))
    assert near.runner_up.tolist() == [-1]
    assert np.isnan(margin(near, np.zeros((1, 1)))[0])


def test_distances_do_not_depend_on_how_rows_are_cut() -> None:
    rng = np.random.default_rng(4)
    x, centers, inverse = rng.normal(size=(9, 5000)), rng.normal(size=(9, 7)), rng.random(9)
    whole = squared_distances(x, centers, inverse)
    assert whole[:, 17:18].tobytes() == squared_distances(x[:, 17:18], centers, inverse).tobytes()
    assert whole[:, 1000:1250].tobytes() == squared_distances(x[:, 1000:1250], centers, inverse).tobytes()


def test_clipping_pulls_in_what_is_far_and_leaves_the_rest() -> None:
    clipped = clip_to_centers(
        np.array([[1e9, 3.0], [1e9, 0.0]]), np.array([0, 0]), np.zeros((2, 1)), np.array([8.0, np.inf])
    )
    assert clipped.tolist() == [[8.0, 3.0], [1e9, 0.0]]


def test_the_metric_ignores_what_does_not_vary_and_shares_variance_in_a_group() -> None:
    assert inverse_of(np.array([0.0, 4.0]), np.array([1.0, 2.0])).tolist() == [0.0, 0.5]
    assert shared_variance(np.array([0.25, 0.125, 0.5]), np.array([0, 1, 1])).tolist() == [0.25, 0.625, 0.625]


@pytest.mark.parametrize(("variance", "off"), [(1.49, False), (1.51, True), (0.67, False), (0.66, True)])
def test_the_metric_is_off_by_a_factor_of_one_and_a_half(variance: float, off: bool) -> None:
    assert is_off(np.array([1.0, variance]), np.ones(2)) is off


def test_blocks_are_of_250_rows() -> None:
    assert BLOCK_ROWS == 250

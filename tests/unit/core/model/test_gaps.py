"""Gaps between segments: parts of one are joined, and no segment's gap is given away for another."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg import Segmenter
from streamseg.core.model.gaps import joined, n_apart
from streamseg.core.model.policy import due
from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.types import Array

ONES = np.ones(3)
APART = np.array([[0.0, 0, 0], [8, 0, 0], [0, 8, 0]])


def normal(n: int, *centers: tuple[float, float, float], seed: int = 0) -> Array:
    """(3, n * len(centers)): n rows around each."""
    rng = np.random.default_rng(seed)
    rows: Array = np.repeat(np.array(centers), n, axis=0).T + rng.normal(size=(3, n * len(centers)))
    return rows


def labeled(x: Array, *centers: tuple[float, float, float]) -> tuple[Array, np.ndarray, Array]:
    found = np.array(centers, dtype=float).T.copy()
    return x, nearest_label(x, found, ONES)[0], found


@pytest.mark.parametrize("seed", range(10))
def test_the_halves_of_a_segment_are_joined_and_what_is_apart_stays(seed: int) -> None:
    x = normal(300, (0, 0, 0), (8, 0, 0), seed=seed)
    out = joined(*labeled(x, (0, 0, 0.8), (8, 0, 0), (0, 0, -0.8)), ONES, 0)
    assert out is not None
    assert out.shape == (3, 2)
    assert np.abs(out - np.array([[0, 8], [0, 0], [0, 0]])).max() < 0.3


def test_thirds_are_joined_at_once() -> None:
    x = normal(600, (0, 0, 0), (8, 0, 0))
    out = joined(*labeled(x, (0, 0, 1.1), (0, 0, 0), (8, 0, 0), (0, 0, -1.1)), ONES, 0)
    assert out is not None
    assert out.shape == (3, 2)


@pytest.mark.parametrize("apart", [3.5, 4.0, 6.0])
@pytest.mark.parametrize("seed", range(10))
def test_segments_that_are_near_each_other_are_not_joined(seed: int, apart: float) -> None:
    centers = ((0.0, 0.0, 0.0), (apart, 0.0, 0.0), (0.0, 9.0, 0.0))
    assert joined(*labeled(normal(300, *centers, seed=seed), *centers), ONES, 0) is None


def test_all_there_is_is_not_joined_into_one() -> None:
    assert joined(*labeled(normal(600, (0, 0, 0)), (0, 0, 0.8), (0, 0, -0.8)), ONES, 0) is None


def test_a_segment_of_few_customers_stays_as_it_is() -> None:
    x = np.concatenate([normal(300, (0, 0, 0), (8, 0, 0)), normal(10, (0, 5, 0), seed=1)], axis=1)
    out = joined(*labeled(x, (0, 0, 0.8), (8, 0, 0), (0, 0, -0.8), (0, 5, 0)), ONES, 0)
    assert out is not None
    assert out.shape == (3, 3)
    assert out[:, -1].tolist() == [0.0, 5.0, 0.0]


def test_a_center_without_customers_is_not_apart() -> None:
    x = normal(300, (0, 0, 0), (8, 0, 0))
    assert n_apart(x, np.array([[0.0, 8, 50], [0, 0, 0], [0, 0, 0]]), ONES) == 2
    assert n_apart(x, np.array([[0.0, 8, 0], [0, 0, 0], [0.8, 0, -0.8]]), ONES) == 1


def incomes(n: int, seed: int) -> Array:
    """Customers in three groups, whose incomes are higher by 60 % from a third on."""
    rng = np.random.default_rng(seed)
    group, risen = rng.integers(3, size=n), np.where(np.arange(n) < n // 3, 1.0, 1.6)
    rows = [20 + 15 * group + rng.normal(size=n), 1e3 * risen * (1 + group + 0.15 * rng.normal(size=n)), group.astype(float)]
    found: Array = np.array(rows).T
    found[:, 2] += 0.3 * rng.normal(size=n)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_feature_that_rises_for_all_leaves_as_many_segments_as_there_were(seed: int) -> None:
    model = Segmenter(("age", "income", "purchases"), n_segments="auto", half_life="auto")
    x = incomes(36_000, seed)
    model.learn_many(x[:12_000])
    assert len(model.centers) == 3
    model.learn_many(x[12_000:])
    assert len(model.centers) == 3
    tags = model.predict_many(x[-3_000:])
    for group in range(3):
        of_group = tags[np.abs(x[-3_000:, 0] - 20 - 15 * group) < 5]
        assert np.bincount(of_group).max() > 0.97 * len(of_group), "a segment is no half of a group"


@pytest.mark.parametrize("seed", range(3))
def test_a_newborn_that_took_the_place_of_another_segment_is_none(seed: int) -> None:
    """A few customers far from all draw a center, which then stands where another one was, and that one splits a third."""
    truth = np.array([[0.0, 0, 0], [8, 0, 0], [4, 8, 0]])
    rng = np.random.default_rng(seed)
    model = Segmenter(("a", "b", "c"), n_segments="auto", half_life="auto")
    model.learn_many(truth[rng.choice(3, 24_000, p=[0.599, 0.397, 0.004])] + rng.normal(size=(24_000, 3)))
    found = np.array([list(center.values()) for center in model.centers.values()])
    assert np.linalg.norm(found[:, None] - truth[None], axis=2).min(axis=1).max() < 0.5
    assert len(found) <= 3


@pytest.mark.parametrize("seed", [1, 8, 12])
def test_a_twentieth_beside_a_third_of_all_is_born_where_it_is(seed: int) -> None:
    """At 4 sigma, where k-means takes a part of the third for the twentieth's, or of another neighbor."""
    truth = np.array([[0.0, 0, 0], [6.3, 4, 0], [5, -5, 3], [-6, -6, -4], [-4, 6, -8]])
    shares, beside = [0.34, 0.13, 0.13, 0.32, 0.08], np.array([4.0, 0, 0])
    rng = np.random.default_rng(seed)
    model = Segmenter(("a", "b", "c"), n_segments="auto", half_life="auto")

    def learn(n: int, share: float) -> None:
        which, new = rng.choice(5, n, p=shares), rng.random(n) < share
        model.learn_many(np.where(new[:, None], beside, truth[which]) + rng.normal(size=(n, 3)))

    learn(10_000, 0.0)
    assert len(model.centers) == 5
    for _ in range(14):
        learn(500, 0.05)
    newborn = model._state.segments[-1]
    assert newborn.why == "born"
    assert np.linalg.norm(np.array(list(model.centers[newborn.id].values())) - beside) < 0.75


def test_where_segments_came_without_a_gap_none_is_joined() -> None:
    model = Segmenter(("a", "b", "c"), n_segments="auto", half_life="auto")
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    model.learn_many(x[:2_000])
    assert model._state.natural is False
    k = len(model.centers)
    model.learn_many(x[2_000:])
    assert len(model.centers) == k
    assert due(model._state, model._spec) in (None, "search")


def test_two_segments_that_become_one_are_told_as_joined() -> None:
    rng = np.random.default_rng(0)
    model = Segmenter(("a", "b", "c"), n_segments="auto", half_life="auto")
    apart = APART[rng.integers(3, size=10_000)] + rng.normal(size=(10_000, 3))
    model.learn_many(apart)
    assert len(model.centers) == 3
    ids = list(model.centers)
    near = APART.copy()
    near[1] = (0.5, 0.0, 0.0)
    model.learn_many(near[rng.integers(3, size=24_000)] + rng.normal(size=(24_000, 3)))
    assert len(model.centers) == 2
    (gone,) = [segment for segment in model._state.retired if segment.why == "joined"]
    assert gone.id in ids
    assert set(gone.successors) <= set(model.centers)

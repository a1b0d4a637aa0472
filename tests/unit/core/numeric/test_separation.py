"""The valley gate: two centers are two segments where there is a gap between them, and not otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.core.numeric.separation import GATE, dithered, neighbors, passes, valley_ratios


def test_centers_are_neighbors_if_no_third_one_is_nearer_to_their_midpoint() -> None:
    centers = np.array([[0.0, 10.0, 5.0], [0.0, 0.0, 0.5]])
    assert neighbors(centers, np.ones(2)).tolist() == [[False, False, True], [False, False, True], [True, True, False]]


@pytest.mark.parametrize("apart", [4.0, 6.0])
def test_two_clusters_have_a_valley_and_the_halves_of_one_have_none(apart: float) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(1, 500)), rng.normal(size=(1, 500)) + apart
    x = np.concatenate([one, two], axis=1)
    labels = np.repeat([0, 1], 500)
    ratios = valley_ratios(x, labels, np.array([[0.0, apart]]), np.ones(1))
    assert ratios[0, 1] == ratios[1, 0] < GATE
    assert passes(ratios).tolist() == [True, True]
    halves = (one[0] > 0).astype(np.int64)
    centers = np.array([[one[0][halves == 0].mean(), one[0][halves == 1].mean()]])
    assert not passes(valley_ratios(one, halves, centers, np.ones(1))).any()


def test_a_feature_that_does_not_count_makes_no_valley() -> None:
    rng = np.random.default_rng(1)
    x = np.stack([rng.normal(size=600), np.repeat([0.0, 100.0], 300)])
    labels = np.repeat([0, 1], 300)
    centers = np.stack([x[:, :300].mean(axis=1), x[:, 300:].mean(axis=1)], axis=1)
    assert not passes(valley_ratios(x, labels, centers, np.array([1.0, 0.0]))).any()


def test_levels_are_spread_over_their_gaps_and_other_features_stay() -> None:
    rng = np.random.default_rng(2)
    x = np.stack([rng.integers(0, 4, 400).astype(float), rng.normal(size=400)])
    spread = dithered(x, 0)
    assert (np.abs(spread[0] - x[0]) <= 0.5).all()
    assert len(np.unique(spread[0])) == 400
    assert (spread[1] == x[1]).all()
    assert (dithered(x, 0) == spread).all()

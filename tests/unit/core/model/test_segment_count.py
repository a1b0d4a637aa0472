"""The number of segments of rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from streamseg.core.model.segment_count import MIN_ROWS, STABLE, by_mixture, choose, means_by_label, natural_labels
from streamseg.core.numeric.separation import GATE, valley_ratios
from streamseg.core.numeric.types import Array, Ints

_PLACES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0], [12.0, 3.0], [-6.0, 3.0], [3.0, 12.0], [3.0, -6.0]])


def rows(sizes: list[int], seed: int = 0) -> tuple[Array, Ints, Array]:
    """Rows (2, n) of one normal cluster of each size, 6 standard deviations apart; their clusters; the inverse variances."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    x = (_PLACES[truth] + np.random.default_rng(seed).normal(size=(len(truth), 2))).T
    return x, truth, 1.0 / x.var(axis=1)


@pytest.mark.parametrize("sizes", [[500, 500], [400, 300, 300], [700, 100, 100, 100], [250] * 4, [150] * 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_clusters_with_a_gap_between_them_are_found(sizes: list[int], seed: int) -> None:
    x, truth, inverse = rows(sizes, seed)
    n_segments, labels, natural = choose(x, inverse, seed)
    assert (n_segments, natural) == (len(sizes), True)
    assert adjusted_rand_score(truth, labels) > 0.97


@pytest.mark.parametrize("seed", range(4))
def test_all_neighbors_that_are_found_have_a_valley_between_them(seed: int) -> None:
    x, _, inverse = rows([300, 200, 100, 60, 40], seed)
    labels = natural_labels(x, inverse, seed)
    assert labels is not None
    k = int(labels.max()) + 1
    assert np.bincount(labels, minlength=k).min() >= MIN_ROWS
    # In the metric of a fit that starts at them.
    again, centers, within = by_mixture(x, labels, means_by_label(x, labels, k), inverse)
    assert np.nanmax(valley_ratios(x, again, centers, within)) < GATE


@pytest.mark.parametrize("draw", ["normal", "uniform", "standard_t"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_without_a_gap_have_no_natural_segments(draw: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(5, (3, 1000)) if draw == "standard_t" else getattr(rng, draw)(size=(3, 1000))
    n_segments, labels, natural = choose(x, 1.0 / x.var(axis=1), seed)
    assert not natural
    assert n_segments in STABLE
    assert len(set(labels.tolist())) == n_segments


def test_fewer_rows_than_a_segment_needs_are_part_of_their_neighbors() -> None:
    x, truth, inverse = rows([500, 500, MIN_ROWS - 5])
    n_segments, labels, natural = choose(x, inverse, 0)
    assert (n_segments, natural) == (2, True)
    assert adjusted_rand_score(truth[:1000], labels[:1000]) > 0.97


def test_two_distinct_rows_are_two_segments() -> None:
    x = np.tile([[0.0, 1.0], [0.0, 1.0]], 3)
    assert choose(x, np.array([4.0, 4.0]), 0).n_segments == 2
    assert natural_labels(x, np.array([4.0, 4.0]), 0) is None


def test_a_constant_feature_does_not_count() -> None:
    x, truth, inverse = rows([300, 300, 300])
    flat = np.vstack([x, np.full(x.shape[1], 7.0)])
    n_segments, labels, _ = choose(flat, np.append(inverse, 0.0), 0)
    assert n_segments == 3
    assert adjusted_rand_score(truth, labels) > 0.97

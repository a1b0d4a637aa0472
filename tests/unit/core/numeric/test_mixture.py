"""The mixture: centers where clusters are, though they reach into one another."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.mixture import of_mixture
from streamseg.core.numeric.types import Array, Ints


def halves(rows: int, smaller: int, apart: float, n_features: int, seed: int) -> tuple[Array, Ints, Array]:
    """Two clusters, apart in the first feature, and labels by where k-means would cut too much off the larger one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_features, rows + smaller))
    x[0, rows:] += apart
    labels = (x[0] > apart / 2.0 - 0.7).astype(np.int64)
    return x, labels, np.stack([x[:, labels == label].mean(axis=1) for label in (0, 1)], axis=1)


@pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")
@pytest.mark.parametrize("steps", [1, 10])
def test_it_takes_the_same_steps_as_scikit_learn(steps: int) -> None:
    x, labels, centers = halves(400, 60, 3.5, 1, 0)
    spread = ((x - centers[:, labels]) ** 2).mean(axis=1)
    theirs = GaussianMixture(
        2, covariance_type="tied", tol=0.0, reg_covar=0.0, max_iter=steps, weights_init=np.bincount(labels) / 460,
        means_init=centers.T, precisions_init=1.0 / spread[:, None],
    ).fit(x.T)  # fmt: skip
    found, within = of_mixture(x, labels, centers, np.ones(1), steps)
    np.testing.assert_allclose(found, theirs.means_.T, rtol=1e-9)
    np.testing.assert_allclose(1.0 / within, theirs.covariances_[0], rtol=1e-9)


def test_the_center_of_a_small_cluster_is_not_drawn_to_the_large_one_beside_it() -> None:
    x, labels, centers = halves(700, 100, 4.0, 3, 1)
    cut = centers
    for _ in range(20):
        labels, _ = nearest_label(x, cut, np.ones(3))
        cut = np.stack([x[:, labels == label].mean(axis=1) for label in (0, 1)], axis=1)
    found, within = of_mixture(x, labels, cut, np.ones(3), 10)
    truth = x[:, 700:].mean(axis=1)
    assert np.linalg.norm(found[:, 1] - truth) < 0.15 < 0.3 < np.linalg.norm(cut[:, 1] - truth)
    np.testing.assert_allclose(within, 1.0, atol=0.1)


def test_a_center_without_rows_stays_and_a_feature_that_does_not_count_tells_nothing() -> None:
    x, labels, centers = halves(200, 200, 6.0, 2, 2)
    far = np.array([[100.0], [7.0]])
    found, within = of_mixture(x, labels, np.concatenate([centers, far], axis=1), np.array([1.0, 0.0]), 5)
    assert found[:, 2].tolist() == [100.0, 7.0]
    assert within[1] == 0.0
    alone, _ = of_mixture(x[:1], labels, centers[:1], np.ones(1), 5)
    assert found[:1, :2].tolist() == alone.tolist()


def test_rows_that_are_all_alike_move_nothing() -> None:
    x, centers = np.full((2, 50), 3.0), np.array([[3.0, 8.0], [3.0, 8.0]])
    found, within = of_mixture(x, np.zeros(50, np.int64), centers, np.ones(2), 5)
    assert found.tolist() == centers.tolist()
    assert within.tolist() == [0.0, 0.0]

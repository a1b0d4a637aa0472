"""First centers."""

from __future__ import annotations

import numpy as np

from streamseg.core.numeric.seeding import kmeans_labels, trimmed_band


def test_labels_find_separate_groups() -> None:
    x = np.concatenate([np.random.default_rng(s).normal(10.0 * s, 1.0, (2, 50)) for s in range(3)], axis=1)
    labels = kmeans_labels(x, np.ones(2), 3, 0)
    assert [len(set(labels[i : i + 50].tolist())) for i in (0, 50, 100)] == [1, 1, 1]
    assert len(set(labels.tolist())) == 3


def test_one_typo_is_outside_the_band_and_the_others_inside() -> None:
    x = np.random.default_rng(0).normal(size=(1, 1000))
    x[0, 17] = 1e9
    low, high = trimmed_band(x, 8.0)
    assert (x > high[:, None]).sum() == 1
    assert not (x < low[:, None]).any()


def test_a_feature_that_hardly_varies_has_no_band() -> None:
    low, high = trimmed_band(np.zeros((1, 100)), 8.0)
    assert (low[0], high[0]) == (-np.inf, np.inf)

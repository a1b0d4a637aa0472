"""Log-histograms of squared distance."""

from __future__ import annotations

import numpy as np

from streamseg.core.numeric import histogram


def test_quantiles_are_right_to_a_quarter_of_an_octave() -> None:
    squared = np.random.default_rng(0).chisquare(3, size=20_000)
    counts = histogram.count(squared, np.zeros(20_000, dtype=np.int64), np.ones(20_000), 2)
    for share in (0.5, 0.95):
        exact = np.quantile(squared, share)
        assert exact <= histogram.quantile(counts, share)[0] <= exact * 1.26
    assert np.isnan(histogram.quantile(counts, 0.5)[1])


def test_histograms_add() -> None:
    rng = np.random.default_rng(1)
    squared, labels = rng.random(400) * 100, rng.integers(0, 3, 400)
    halves = [histogram.count(squared[part], labels[part], np.ones(200), 3) for part in (slice(0, 200), slice(200, 400))]
    assert np.array_equal(halves[0] + halves[1], histogram.count(squared, labels, np.ones(400), 3))


def test_what_lies_outside_is_in_the_end_bins() -> None:
    bins = histogram.bins_of(np.array([0.0, 1e-300, 1e300]))
    assert bins.tolist() == [0, 0, histogram.N_BINS - 1]

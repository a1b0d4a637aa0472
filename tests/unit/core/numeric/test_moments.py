"""Exact running moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.numeric.moments import Moments, moments_of
from streamseg.core.numeric.types import Array

LARGE = 1e9 + np.random.default_rng(0).normal(size=1000)
LARGE_VARIANCE = 0.9540463497672959


def learned(values: Array, cuts: list[int]) -> Moments:
    total = Moments.empty(1)
    for part in np.split(values, cuts):
        if len(part):
            total.merge(moments_of(part[None, :], np.ones(len(part))))
    return total


@pytest.mark.parametrize("cuts", [list(range(1, 1000)), list(range(100, 1000, 100)), [500], []])
def test_variance_keeps_its_digits_far_from_zero_however_rows_are_cut(cuts: list[int]) -> None:
    assert learned(LARGE, cuts).variance()[0] == pytest.approx(LARGE_VARIANCE, rel=1e-7)
    assert learned(LARGE, cuts).mean[0] == pytest.approx(math.fsum(LARGE) / 1000, rel=1e-15)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40), st.data())
def test_merge_equals_learning_the_concatenation_commutes_and_associates(values: list[float], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(values)))
    second = data.draw(st.integers(first, len(values)))
    array = np.array(values)
    parts = [learned(part, []) for part in np.split(array, [first, second])]
    whole = learned(array, [])

    def merged(*moments: Moments) -> Moments:
        total = Moments.empty(1)
        for part in moments:
            total.merge(part)
        return total

    a, b, c = parts
    scale = 1.0 + float(np.abs(array).max())
    for one in (merged(a, b, c), merged(c, b, a), merged(a, merged(b, c)), merged(b, merged(a, c))):
        assert one.weight[0] == whole.weight[0]
        assert one.mean[0] == pytest.approx(whole.mean[0], abs=1e-12 * scale)
        assert one.m2[0] == pytest.approx(whole.m2[0], abs=1e-12 * scale * scale * len(values))
        assert one.m2[0] >= 0.0


def test_a_side_without_weight_changes_nothing() -> None:
    moments = learned(LARGE, [])
    before = (moments.weight.tobytes(), moments.mean.tobytes(), moments.m2.tobytes())
    moments.merge(Moments.empty(1))
    assert (moments.weight.tobytes(), moments.mean.tobytes(), moments.m2.tobytes()) == before
    other = Moments.empty(1)
    other.merge(moments)
    assert other.mean[0] == moments.mean[0]
    assert other.m2[0] == moments.m2[0]


def test_missing_values_do_not_count() -> None:
    x = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    moments = moments_of(x, np.ones(3), complete=False)
    assert moments.weight.tolist() == [2.0, 0.0]
    assert moments.mean[0] == 2.0


def test_a_constant_has_variance_zero_at_any_size() -> None:
    assert learned(np.full(1000, 0.1), list(range(1, 1000))).variance()[0] == 0.0
    assert learned(np.full(1000, 1e9 + 0.1), list(range(1, 1000))).variance()[0] == 0.0

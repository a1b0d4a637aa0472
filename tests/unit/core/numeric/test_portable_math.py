"""exp2, log1p and expm1 of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamseg.core.numeric.portable_math import exp2, exp2_scalar, signed_expm1, signed_log1p


def test_exp2_is_within_two_units_in_the_last_place() -> None:
    x = np.concatenate([-np.random.default_rng(0).random(20_000) * 1000, -np.logspace(-18, 3, 2_000)])
    expected = np.exp2(x)
    assert np.all(np.abs(exp2(x) - expected) <= 2 * np.spacing(expected))


def test_exp2_of_whole_numbers_is_exact_and_underflows_to_zero() -> None:
    assert exp2(np.array([0.0, -1.0, -10.0, -1074.0, -2000.0, -np.inf])).tolist() == [1.0, 0.5, 2.0**-10, 5e-324, 0.0, 0.0]


def test_exp2_of_one_number_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(1)
    x = -np.concatenate([rng.random(500) * 60, rng.random(500) * 1200, np.arange(0, 1200, 0.5), [1e-300, np.inf]])
    assert [exp2_scalar(float(value)) for value in x] == exp2(x).tolist()


def test_log1p_is_within_one_unit_in_the_last_place_and_signed() -> None:
    x = np.concatenate([np.logspace(-300, 300, 20_000), np.random.default_rng(2).random(5_000) * 10])
    # The C library's: NumPy's own differs between CPUs.
    expected = np.array([math.log1p(value) for value in x.tolist()])
    assert np.all(np.abs(signed_log1p(x) - expected) <= np.spacing(expected))
    assert np.array_equal(signed_log1p(-x), -signed_log1p(x))


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.3, 0.5, 0.51, 7.0, 230.0])
def test_expm1_undoes_log1p(value: float) -> None:
    x = np.array([value, -value])
    assert signed_expm1(signed_log1p(np.abs(signed_expm1(x)) * np.sign(x))) == pytest.approx(signed_expm1(x), rel=1e-12)
    assert signed_expm1(x)[0] == pytest.approx(np.expm1(value), rel=1e-13)


def test_missing_values_stay_missing() -> None:
    assert np.isnan(signed_log1p(np.array([np.nan])))[0]
    assert np.isnan(signed_expm1(np.array([np.nan])))[0]

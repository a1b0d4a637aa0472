"""exp2, log1p and expm1 from + - * / alone: the same bytes on every CPU.

exp2 is within 2 units in the last place, log1p within 1, expm1 within 1e-13 relative over the range of log1p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamseg.core.numeric.types import Array

_LN2 = 0.6931471805599453
# ln 2 in two parts: the first has 32 trailing zero bits, so that it times an exponent is exact.
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_SQRT_HALF = 0.7071067811865476

# Taylor: 2^f = sum (f ln 2)^i / i!, |f| <= 1/2: the first term left out is below 1e-18.
_EXP2_TERMS = [_LN2**i / math.factorial(i) for i in range(15)]
# expm1(x) / x = sum x^i / (i + 1)!, |x| <= 1/2.
_EXPM1_TERMS = [1.0 / math.factorial(i + 1) for i in range(16)]
# 2 artanh(s) = 2s + s R(s^2), R(z) = sum 2 z^i / (2i + 1) from i = 1 on, z <= 0.0295.
_ARTANH_TERMS = [2.0 / (2 * i + 3) for i in range(11)]


def _horner(terms: Sequence[float], x: Array) -> Array:
    total = np.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        total *= x
        total += term
    return total


def exp2(x: Array) -> Array:
    """2**x, element by element. IN x; -inf gives 0; below -1074 underflows to 0."""
    x = np.maximum(np.asarray(x, dtype=np.float64), -1100.0)
    whole = np.rint(x)
    return np.ldexp(_horner(_EXP2_TERMS, x - whole), whole.astype(np.int32))


def exp2_scalar(x: float) -> float:
    """2**x for one number that is at most 0, the same bytes as `exp2`: a tenth of what an array of one takes."""
    x = max(x, -1100.0)
    whole = round(x)
    total = _EXP2_TERMS[-1]
    for term in reversed(_EXP2_TERMS[:-1]):
        total = total * (x - whole) + term
    return math.ldexp(total, whole)


def log1p(x: Array) -> Array:
    """log(1 + x) for x >= 0. IN x.

    log u of u = 1 + x by log(m 2^e) = 2 artanh(s) + e ln 2, s = f / (2 + f), f = m - 1, plus (x - (u - 1)) / u for what
    rounding 1 + x lost (Kahan). 2 artanh(s) is f - (f^2 / 2 - s (f^2 / 2 + R(s^2))), which rounds s only in a small term
    (FreeBSD's msun, e_log.c).
    """
    x = np.asarray(x, dtype=np.float64)
    u = 1.0 + x
    mantissa, exponent = np.frexp(u)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = exponent - low
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    log_mantissa = f - (half - s * (half + z * _horner(_ARTANH_TERMS, z)))
    correction = (x - (u - 1.0)) / u
    return power * _LN2_HIGH + (log_mantissa + (power * _LN2_LOW + correction))


def signed_log1p(x: Array) -> Array:
    """sign(x) log(1 + |x|): refunds are negative. IN x; NaN stays NaN."""
    return np.copysign(log1p(np.abs(x)), x)


def signed_expm1(y: Array) -> Array:
    """The inverse of `signed_log1p`. IN y; NaN stays NaN."""
    y = np.asarray(y, dtype=np.float64)
    size = np.abs(y)
    small = size <= 0.5
    near = np.where(small, size, 0.0)
    far = np.where(small | np.isnan(size), 0.0, size)
    magnitude = np.where(small, near * _horner(_EXPM1_TERMS, near), exp2(far / _LN2) - 1.0)
    return np.copysign(np.where(np.isnan(y), y, magnitude), y)

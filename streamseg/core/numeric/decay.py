"""Forgetting: none, by position (weights seen), or by event time (forward decay, Cormode et al., ICDE 2009).

Weights are kept as of a *clock*: the largest event time seen. Moving the clock multiplies every older weight by one
factor, so decayed sums of two parts compose, and for event time their order does not matter. A weight refers to the
clock and never to an absolute epoch, so timestamps of any size neither overflow nor underflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from streamseg.core.numeric.portable_math import exp2, exp2_scalar
from streamseg.core.numeric.types import Array, Flags

# Before any event. Finite, so that it survives JSON.
NEVER = -1e300


class Aged(NamedTuple):
    """The weights of a block as of its end, and what its passing did to everything before."""

    weights: Array
    factor: float
    clock: float
    age: float


class Ages(NamedTuple):
    """`Aged` for several speeds of forgetting at once: weights (n, n_rows), factors (n,)."""

    weights: Array
    factors: Array
    clock: float
    age: float


class Forgetting(msgspec.Struct, frozen=True):
    """How fast the past fades.

    Attributes:
        unit: what the half-life counts: nothing, learned weight, or seconds of event time.
        half_life: in that unit; not used for "none".
        common: the half-life, in learned weight, at which all centers follow together what they have in common; infinite
            for not at all.
    """

    unit: Literal["none", "weight", "time"] = "none"
    half_life: float = float("inf")
    common: float = float("inf")

    def age(self, w: Array, t: Array | None, clock: float) -> Aged:
        """Weights (n_rows,) as of the end of a block. IN w, t (seconds, guarded by `guarded_times`); clock in seconds."""
        later = clock if t is None else max(clock, float(t.max()))
        if self.unit == "weight":
            position = np.cumsum(w)
            total = float(position[-1])
            fading = exp2((position - total) / self.half_life)
            return Aged(w * fading, exp2_scalar(-total / self.half_life), later, total)
        if self.unit == "time":
            assert t is not None
            fading = exp2((t - later) / self.half_life)
            return Aged(w * fading, self._between(clock, later), later, 0.0)
        return Aged(w, 1.0, later, 0.0)

    def meet(self, clock: float, other_clock: float, other_age: float) -> tuple[float, float]:
        """Factors that bring a state and a delta learned apart to their common clock: (state's, delta's)."""
        if self.unit == "weight":
            return exp2_scalar(-other_age / self.half_life), 1.0
        if self.unit == "time":
            later = max(clock, other_clock)
            return self._between(clock, later), self._between(other_clock, later)
        return 1.0, 1.0

    def _between(self, earlier: float, later: float) -> float:
        return 1.0 if earlier == NEVER else exp2_scalar((earlier - later) / self.half_life)


class Speeds:
    """Speeds of forgetting side by side. Beside "none" they count in one unit."""

    def __init__(self, speeds: Sequence[Forgetting]) -> None:
        """Raises ValueError where they count in different units."""
        units = {speed.unit for speed in speeds} - {"none"}
        if len(units) > 1:
            raise ValueError(f"half-lives that compete must count in one unit, not in {sorted(units)}")
        self.unit = units.pop() if units else "none"
        self._half_lives = np.array([speed.half_life if speed.unit != "none" else np.inf for speed in speeds])

    def age(self, w: Array, t: Array | None, clock: float) -> Ages:
        """As `Forgetting.age`, for each of them."""
        n = len(self._half_lives)
        later = clock if t is None else max(clock, float(t.max()))
        if self.unit == "weight":
            position = np.cumsum(w)
            total = float(position[-1])
            fading = exp2((position - total) / self._half_lives[:, None])
            return Ages(w * fading, exp2(-total / self._half_lives), later, total)
        if self.unit == "time":
            assert t is not None
            fading = exp2((t - later) / self._half_lives[:, None])
            factors = np.ones(n) if clock == NEVER else exp2((clock - later) / self._half_lives)
            return Ages(w * fading, factors, later, 0.0)
        return Ages(np.broadcast_to(w, (n, len(w))), np.ones(n), later, 0.0)


def guarded_times(t: Array, clock: float, last: float, max_ahead: float | None) -> tuple[Array, Flags]:
    """Times that a single wrong one cannot spoil: (times of shape (n_rows,), which ones were held back).

    The watermark is the largest time that two events in a row have reached; a time more than `max_ahead` seconds ahead of
    it weighs as at the watermark. So a lone typo is held back, and a stream that was idle for a year goes on with its
    second event. IN t; `last` is the raw time of the event before the first.
    """
    if max_ahead is None or not len(t):
        return t, np.zeros(len(t), dtype=np.bool_)
    if clock == NEVER:
        clock = last = float(t[:2].min())
    reached = np.minimum(np.concatenate(([last], t[:-1])), t)
    watermark = np.maximum(np.maximum.accumulate(reached), clock)
    held = t > watermark + max_ahead
    if not held.any():
        return t, held
    believed = np.maximum.accumulate(np.where(held, watermark, np.maximum(t, watermark)))
    return np.where(held, believed, t), held

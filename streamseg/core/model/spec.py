"""What the model is told and never learns: features, number of segments, forgetting, guards."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np

from streamseg.core.numeric.decay import Forgetting
from streamseg.core.numeric.portable_math import signed_expm1
from streamseg.core.numeric.types import Array, Flags, Ints

MAX_SEGMENTS = 64
# Where the number of segments is left to the customers, there are at least so many different ones before it is asked.
LEAST_SEGMENTS = 3
# The half-lives that compete where none is given, in customer weights; and that of the moments which all share.
# What forgetting costs is about a third of segments / half-life of the loss, so longer ones than these gain nothing.
AUTO_HALF_LIVES = (25.0, 100.0, 400.0, 1600.0)
# Beside them one whose centers follow together what they have in common: half-life of each, and of that.
AUTO_TOGETHER = (150.0, 50.0)
AUTO_MEMORY = 2000.0
# How much wider the guard `max_gain` is where half-lives compete.
COMPETING_GAIN = 2.0
MAX_FEATURES = 64
# Accepted records of a partition in a step of the model. With 2,000 the worst loss on the way of raw sums is 1.18 times the
# best instead of 1.09.
STEP = 500
# A warm start that has centers only takes its metric from this many rows.
SETTLING_ROWS = 250
# A warm-up that ends before `warm_up` customers were seen needs this many for each segment.
CUSTOMERS_PER_SEGMENT = 10
WARM_UP_EVENTS_FACTOR = 10
# Customers that are kept where a warm-up lasts, as a multiple of `warm_up`.
WARM_UP_MOST = 10
WARM_UP_SECONDS = 30 * 86400.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_duration(text: str) -> float:
    """Seconds of "90d", "12h", "15m", "30s" or "2w". Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a positive duration such as 90d, 12h, 15m, 30s or 2w")
    return float(match[1]) * _UNITS[match[2]]


def parse_forgetting(half_life: float | str | None) -> Forgetting:
    """The half-life as users write it: None or "none", a number of weights, or a duration in event time.

    Of "auto" it is that of the shared moments. Raises ValueError.
    """
    if half_life == "auto":
        return Forgetting("weight", AUTO_MEMORY)
    if half_life is None or half_life == "none":
        return Forgetting()
    if isinstance(half_life, str):
        return Forgetting("time", parse_duration(half_life))
    if isinstance(half_life, bool) or not 0 < half_life < float("inf"):
        raise ValueError(f"half_life must be positive and finite, not {half_life!r}")
    return Forgetting("weight", float(half_life))


def in_words(forgetting: Forgetting) -> str:
    """The half-life for people: "none", "2,000 customers", "90 d"."""
    if forgetting.unit == "none":
        return "none"
    if forgetting.unit == "time":
        return f"{forgetting.half_life / 86400:g} d"
    together = "" if forgetting.common == float("inf") else ", following together"
    return f"{forgetting.half_life:,.0f} customers{together}"


def parse_speeds(half_life: float | str | None) -> tuple[Forgetting, ...]:
    """The speeds of forgetting that compete. Raises ValueError."""
    if half_life == "auto":
        each, common = AUTO_TOGETHER
        alone = (Forgetting("weight", value) for value in AUTO_HALF_LIVES)
        # What is longest remembered comes last: it leads until another one is better.
        return (*alone, Forgetting("weight", each, common), Forgetting())
    return (parse_forgetting(half_life),)


class ModelFeature(msgspec.Struct, frozen=True):
    """One number of a customer.

    Attributes:
        weight: its weight in the distance; 0 keeps it for profiles only.
        group: features of one group share a variance (the categories of a one-hot field); "" for none.
        transform: what was done to the values before the model sees them.
        half_life_s: seconds of silence after which a value, before its transform, is half; None where it stays.
        per_day: what a day of silence adds to it; accumulates: what events add to it stays, but for the half-life.
    """

    name: str
    weight: float = 1.0
    group: str = ""
    transform: Literal["none", "log1p"] = "none"
    half_life_s: float | None = None
    per_day: float = 0.0
    accumulates: bool = False

    @property
    def ages(self) -> bool:
        """Whether the value of a silent customer changes."""
        return self.half_life_s is not None or self.per_day != 0.0

    def raw(self, values: Array) -> Array:
        """Values before the transform. IN values, of any shape."""
        return signed_expm1(values) if self.transform == "log1p" else values


class ModelSpec(msgspec.Struct, frozen=True, dict=True):
    """Fixed for the life of a model. Weighted features come first.

    Attributes:
        n_segments: k; None: learned from the customers.
        forgetting: of what all candidates share: moments, profiles, histograms.
        speeds: of the candidates.
        refits: whether better centers are looked for as events come.
        warm_up: complete customers before the first centers.
        max_warm_up_s: event time that a warm-up takes at most.
        drift_horizon_s: event time over which gains of customers are compared, in seconds; None to compare none.
        max_gain, clip_sigmas, max_ahead: the guards; None turns one off.
        unit_metric: inputs are scaled already, every variance counts as 1.
        watched: whether reference customers are kept, for drift.
        table: whether rows are those of a table of customers, of which each counts once as it is now.
        active_within: seconds of event time after which a silent customer no longer counts; None for never.
        make: makes the river clusterer that decides on segments; None for the built-in model.
    """

    features: tuple[ModelFeature, ...]
    n_segments: int | None = None
    forgetting: Forgetting = Forgetting()
    speeds: tuple[Forgetting, ...] = (Forgetting(),)
    warm_up: int = 1000
    seed: int = 0
    max_gain: float | None = 0.1
    clip_sigmas: float | None = 8.0
    max_ahead: float | None = 3600.0
    max_warm_up_s: float = WARM_UP_SECONDS
    unit_metric: bool = False
    refits: bool = False
    stickiness: float = 0.0
    watched: bool = False
    drift_horizon_s: float | None = None
    table: bool = False
    active_within: float | None = None
    make: Callable[[], Any] | None = None

    def check(self) -> None:
        """Raises ValueError on nonsense, naming the parameter."""
        names = [feature.name for feature in self.features]
        _require(len(names) > 0, "features must name at least one feature")
        _require(len(set(names)) == len(names), "features must have distinct names")
        _require(len(names) <= MAX_FEATURES, f"features must be at most {MAX_FEATURES}, not {len(names)}")
        _require(all(0 <= f.weight < float("inf") for f in self.features), "a feature's weight must be 0 or positive")
        _require(self.n_weighted > 0, "at least one feature must have a weight above 0")
        k = self.least_segments
        _require(1 <= k <= MAX_SEGMENTS, f"n_segments must be 1 to {MAX_SEGMENTS}, not {k}")
        _require(self.warm_up >= k, f"warm_up ({self.warm_up}) must be at least n_segments ({k})")
        _require(0.0 <= self.stickiness < 1.0, "stickiness must be from 0 to below 1")
        _require(self.max_gain is None or 0 < self.max_gain <= 1, "max_gain must be in (0, 1], or None")
        _require(self.clip_sigmas is None or self.clip_sigmas > 0, "clip_sigmas must be positive, or None")
        _require(self.max_ahead is None or self.max_ahead >= 0, "max_ahead must be 0 or positive, or None")
        _require(0 <= self.seed < 2**32, "seed must be in 0 .. 2**32 - 1")

    @property
    def tunes_itself(self) -> bool:
        """Whether anything is decided on the way, by what customers come."""
        return self.refits or len(self.speeds) > 1

    @property
    def least_segments(self) -> int:
        """Customers must differ at so many points before there can be a model."""
        return LEAST_SEGMENTS if self.n_segments is None else self.n_segments

    @cached_property
    def max_gains(self) -> Array:
        """The guard for each candidate, infinite where it is off: a mean of all events needs none.

        Where several compete it is wider: a candidate that follows too eagerly does not lead, and one that is held back
        cannot follow.
        """
        off = [speed.unit == "none" or self.max_gain is None for speed in self.speeds]
        widened = COMPETING_GAIN if len(self.speeds) > 1 else 1.0
        return np.where(off, np.inf, 1.0 if self.max_gain is None else min(1.0, widened * self.max_gain))

    @cached_property
    def common_half_lives(self) -> Array:
        """At which each candidate's centers follow together, (n_candidates,), in weight; as long as the guard asks for.

        An event of half-life h moves by 1 - 2^(-1/h), which is at most ln 2 / h.
        """
        commons = np.array([speed.common for speed in self.speeds])
        slow_enough: Array = np.maximum(commons, math.log(2.0) / self.max_gains)
        return slow_enough

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def logged(self) -> Ints:
        """Places of the features that are logarithms."""
        return np.array([j for j, feature in enumerate(self.features) if feature.transform == "log1p"], dtype=np.int64)

    @cached_property
    def n_weighted(self) -> int:
        """How many features count in the distance; the others are for profiles."""
        return sum(feature.weight > 0 for feature in self.features)

    @cached_property
    def feature_weight(self) -> Array:
        """Weights of the weighted features, (n_weighted,)."""
        return np.array([feature.weight for feature in self.features[: self.n_weighted]])

    @cached_property
    def groups(self) -> Ints:
        """A number for each weighted feature, (n_weighted,), equal where they share a variance, in rising order."""
        seen: dict[str, int] = {}
        keys = [feature.group or f"\0{feature.name}" for feature in self.features[: self.n_weighted]]
        return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)

    @cached_property
    def categories(self) -> Flags:
        """Which weighted features are categories of a one-hot field, (n_weighted,)."""
        return np.array([bool(feature.group) for feature in self.features[: self.n_weighted]], dtype=np.bool_)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

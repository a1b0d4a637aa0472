"""How far customers are from those of the reference, and whether that is more than chance at this sample size.

Two measures of each feature: the population stability index on the reference's deciles, and the first Wasserstein distance
in the reference's standard deviations. Fixed thresholds are wrong for most sample sizes, so each has a critical value that
independent customers pass in one window of a hundred: for the index `(1/n + 1/m) chi2.ppf(.99, bins - 1)` (Yurdakul and
Naranjo 2020), for the distance the 99th percentile between samples of the reference itself, which scales with
`sqrt(1/n + 1/m)`. Drift is told where a measure is beyond its critical value and large enough to matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from streamseg.core.model.gains import gains
from streamseg.core.model.reference import Reference
from streamseg.core.model.spec import ModelFeature, ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.types import Array, Ints

BINS = 10
LEVEL = 0.99
# What a reference's own samples say of chance is an estimate itself: a little more, so that it holds.
_DISTANCE_LEVEL = 0.993
# Effects below these do not matter, however sure they are.
LEAST_PSI, LEAST_DISTANCE, LEAST_SHARE = 0.1, 0.2, 0.25
# Fewer customers than this say nothing.
MIN_ROWS = 100
_QUANTILES = 200
_DRAWS = 1_000
_HALF = 250


class Measure(NamedTuple):
    """A measure, and the value that chance alone exceeds in one window of a hundred."""

    value: float
    critical: float

    @property
    def significant(self) -> bool:
        return self.value > self.critical

    def beyond(self, least: float) -> bool:
        """Whether it is more than chance, and more than what does not matter."""
        return self.significant and self.value > least


class FeatureDrift(NamedTuple):
    """How far a feature is from what it was.

    Attributes:
        before, after: medians in the user's units; where there is a `horizon_s` (seconds), mean gains over it.
    """

    psi: Measure
    distance: Measure
    before: float = 0.0
    after: float = 0.0
    horizon_s: float | None = None

    @property
    def drifted(self) -> bool:
        """Whether one measure is both beyond chance and large enough to matter."""
        return self.psi.beyond(LEAST_PSI) or self.distance.beyond(LEAST_DISTANCE)

    def in_words(self, name: str) -> str:
        """Such as "spend: median 42 -> 61 (+45 %), PSI 0.31, by chance 0.02"."""
        what = "median" if self.horizon_s is None else f"mean gain in {self.horizon_s / 86_400.0:g} days"
        change = f" ({(self.after - self.before) / abs(self.before):+.0%})" if self.before else ""
        return (
            f"{name}: {what} {self.before:,.4g} -> {self.after:,.4g}{change}, PSI {self.psi.value:.2g}, "
            f"by chance {self.psi.critical:.2g}"
        )


class Drift(NamedTuple):
    """Of `n` customers against `m` of the reference; `features` by name, `shares` of the segments that they are in.

    `share_off`: the largest change of a segment's share, as a share of what it was.
    """

    n: int
    m: int
    features: dict[str, FeatureDrift]
    shares: Measure
    share_off: float

    @property
    def shares_drifted(self) -> bool:
        return self.shares.significant and self.share_off > LEAST_SHARE

    @property
    def drifted(self) -> list[str]:
        """Names of features that drifted."""
        return [name for name, one in self.features.items() if one.drifted]


class Yardstick:
    """What is known of a reference before any window: edges, shares, and how far apart its own samples are."""

    def __init__(self, reference: Reference, spec: ModelSpec, *, fixed: bool = False) -> None:
        """`fixed`: the reference was configured; else it is made of the first customers."""
        self._spec, self._x, self._fixed = spec, reference.x, fixed
        self._features = [_Feature(row[~np.isnan(row)]) for row in reference.x]

    def measured(self, state: ModelState, x: Array, segments: Ints) -> Drift | None:
        """Drift of customers `x` (n_features, n) in `segments` (n,); None where there are too few. IN all."""
        n = x.shape[1]
        if min(n, self._x.shape[1]) < MIN_ROWS:
            return None
        features = {}
        for feature, known, row in zip(self._spec.features, self._features, x, strict=True):
            values = row[~np.isnan(row)]
            found = None if self._nonstationary(feature) else known.measured(values)
            if found is not None:
                middles = np.array([known.median, np.median(values)])
                before, after = feature.raw(middles).tolist()
                features[feature.name] = found._replace(before=before, after=after)
        moving = any(map(self._nonstationary, self._spec.features[: self._spec.n_weighted]))
        shares, off = (Measure(0.0, 0.0), 0.0) if moving else self._shares(state, segments)
        return Drift(n, self._x.shape[1], features | gain_drift(state, self._spec), shares, off)

    def _nonstationary(self, feature: ModelFeature) -> bool:
        """Whether values change by construction, so that the first customers are no reference for later ones."""
        return not self._fixed and (feature.accumulates or feature.ages)

    def _shares(self, state: ModelState, segments: Ints) -> tuple[Measure, float]:
        """Of the segments, by the present model on both sides: what it learned is no drift of the customers."""
        rows = self._x[: self._spec.n_weighted]
        centers, inverse = state.tagging.centers.centers, state.metric.inverse(self._spec)
        if state.external is None:
            labels, _ = nearest_label(rows, centers, inverse)
            before = np.bincount(labels, minlength=centers.shape[1])
        else:
            ids = state.external.predict(rows, self._spec)
            before = np.array([np.count_nonzero(ids == i) for i in state.ids])
        after = np.array([np.count_nonzero(segments == i) for i in state.ids])
        if after.sum() < MIN_ROWS or len(before) < 2:
            return Measure(0.0, 0.0), 0.0
        was, now = before / before.sum(), after / after.sum()
        # A segment that is rare in both is told by its count, not by its share.
        common = np.maximum(was, now) >= 0.05
        off = np.abs(now - was) / np.maximum(was, 1.0 / before.sum())
        return psi(before, after), float(off[common].max(initial=0.0))


def gain_drift(state: ModelState, spec: ModelSpec) -> dict[str, FeatureDrift]:
    """Of features that accumulate: what customers gained over the last horizon, against the one before. IN both."""
    found = gains(state.copies, spec.features)
    if found is None:
        return {}
    out = {}
    for feature, before, after in zip(spec.features, *found, strict=True):
        if feature.accumulates:
            there = ~(np.isnan(before) | np.isnan(after))
            drift = _Feature(before[there]).measured(after[there])
            if drift is not None:
                out[feature.name] = drift._replace(
                    before=float(before[there].mean()), after=float(after[there].mean()), horizon_s=spec.drift_horizon_s
                )
    return out


class _Feature:
    """A feature's reference values, (m,)."""

    def __init__(self, values: Array) -> None:
        self._m = len(values)
        if self._m < MIN_ROWS:
            return
        self._edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
        self._counts = self._binned(values)
        self._spread, self.median = float(values.std()), float(np.median(values))
        self._points = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        self._quantiles = np.quantile(values, self._points)
        self._chance = self._distance_by_chance(values)

    def _binned(self, values: Array) -> Ints:
        return np.bincount(np.searchsorted(self._edges, values, side="left"), minlength=len(self._edges) + 1)

    def _distance_by_chance(self, values: Array) -> float:
        """The 99th percentile of the distance of two samples, times `1 / sqrt(1/n + 1/m)`; always the same draws."""
        rng = np.random.default_rng(0)
        one, other = (np.sort(rng.choice(values, (_DRAWS, _HALF)), axis=1) for _ in range(2))
        apart = np.abs(one - other).mean(axis=1)
        return float(np.quantile(apart, _DISTANCE_LEVEL)) / float(np.sqrt(2.0 / _HALF))

    def measured(self, values: Array) -> FeatureDrift | None:
        """None where too few customers have it."""
        n = len(values)
        if min(n, self._m) < MIN_ROWS:
            return None
        apart = float(np.abs(np.quantile(values, self._points) - self._quantiles).mean())
        scale = self._spread if self._spread > 0.0 else 1.0
        chance = self._chance * float(np.sqrt(1.0 / n + 1.0 / self._m))
        return FeatureDrift(psi(self._counts, self._binned(values)), Measure(apart / scale, chance / scale))


def psi(before: Ints, after: Ints) -> Measure:
    """Population stability index of counts in bins, with its critical value. Half a customer is added to each bin."""
    m, n, bins = int(before.sum()), int(after.sum()), len(before)
    if bins < 2:
        return Measure(0.0, 0.0)
    was, now = (before + 0.5) / (m + 0.5 * bins), (after + 0.5) / (n + 0.5 * bins)
    value = float(((now - was) * np.log(now / was)).sum())  # noqa: TID251 - told, never learned
    return Measure(value, (1.0 / n + 1.0 / m) * _critical(bins))


@lru_cache
def _critical(bins: int) -> float:
    # Only here: it takes a fifth of a second to import, which commands that look at no drift need not wait for.
    from scipy.special import chdtri

    return float(chdtri(bins - 1, 1.0 - LEVEL))

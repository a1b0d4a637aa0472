"""What customers gain. Counts and sums grow, so their levels drift by construction; increments need not.

At every multiple of a horizon of event time the panel is copied. The customers who are in all of the last three copies give
two paired samples: their gains from the first to the second, and from the second to the third.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import msgspec
import numpy as np

from streamseg.core.model.panel import Panel
from streamseg.core.model.spec import ModelFeature
from streamseg.core.numeric.portable_math import exp2_scalar
from streamseg.core.numeric.types import Array, Ints

_COPIES = 3


class PanelCopy(msgspec.Struct):
    """Customers who stand for all alike, as they were when event time was `at`: `keys` (n,), rising, `x` (n_features, n)."""

    at: float
    keys: Ints
    x: Array

    def without(self, gone: Ints) -> PanelCopy:
        """Without erased customers."""
        stay = ~np.isin(self.keys, gone)
        return self if stay.all() else PanelCopy(self.at, self.keys[stay], np.ascontiguousarray(self.x[:, stay]))


def with_copy(copies: list[PanelCopy], panel: Panel, clock: float, horizon: float) -> list[PanelCopy]:
    """The copies, with one of the panel where event time has reached another multiple of the horizon. IN all."""
    if copies and clock // horizon <= copies[-1].at // horizon:
        return copies
    common = panel.take(panel.common)
    return [*copies, PanelCopy(clock, common.keys, common.x)][-_COPIES:]


def gains(copies: list[PanelCopy], features: tuple[ModelFeature, ...]) -> tuple[Array, Array] | None:
    """What customers gained in the horizon before the last, and in the last, in the user's units.

    A copy is in single precision, so gains are rounded to a thousandth of their deviation: equal ones stay equal. Both
    (n_features, n); rows of features that do not accumulate are NaN. None where there are not three copies, or they are not
    equally far from each other: after a silence of the whole stream one gain is of more time. IN both.
    """
    if len(copies) < _COPIES:
        return None
    spans = [later.at - earlier.at for earlier, later in pairwise(copies)]
    if max(spans) > 1.5 * min(spans):
        return None
    keys = reduce(np.intersect1d, [copy.keys for copy in copies])
    x = [copy.x[:, np.searchsorted(copy.keys, keys)] for copy in copies]
    before, after = (np.full((len(features), len(keys)), np.nan) for _ in range(2))
    for j, feature in enumerate(features):
        if feature.accumulates:
            raw = [feature.raw(each[j]) for each in x]
            left = [1.0 if feature.half_life_s is None else exp2_scalar(-span / feature.half_life_s) for span in spans]
            found = np.array([raw[i + 1] - left[i] * raw[i] for i in range(2)])
            unit = float(found.std()) / 1_000.0 if found.size else 0.0
            before[j], after[j] = np.rint(found / unit) * unit if unit > 0.0 else found
    return before, after

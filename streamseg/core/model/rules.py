"""A segment in one line: thresholds in the user's units, from a shallow decision tree, with how far they can be trusted."""

from __future__ import annotations

import numpy as np

from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import Rule
from streamseg.core.numeric.portable_math import signed_expm1
from streamseg.core.numeric.types import Array, Flags, Ints

_DEPTH = 3
_LEAST_ROWS = 40
# 32 bits hold it twice.
_LARGEST = 1e38
# By place of the feature: above the first, and not above the second.
Bounds = dict[int, tuple[float, float]]


def rules_of(x: Array, labels: Ints, ids: list[int], spec: ModelSpec) -> dict[int, Rule]:
    """Rules by segment id, fitted on every other row; precision and coverage are those on the rest.

    IN x (n_weighted, n_rows) in feature units, labels (n_rows,) places in `ids`. Segments that no rule tells are left out.
    """
    fitted = np.arange(x.shape[1]) % 2 == 0
    rules = {}
    for label, segment in enumerate(ids):
        mine = labels == label
        if mine[fitted].sum() * 2 < _LEAST_ROWS or mine[fitted].all():
            continue
        bounds = _best_leaf(x[:, fitted], mine[fitted])
        caught = _within(x[:, ~fitted], bounds)
        if bounds and caught.any():
            both = float(np.count_nonzero(caught & mine[~fitted]))
            precision, coverage = both / int(np.count_nonzero(caught)), both / max(1, int(np.count_nonzero(mine[~fitted])))
            rules[segment] = Rule(_in_words(bounds, x, spec), round(precision, 3), round(coverage, 3))
    return rules


def _best_leaf(x: Array, mine: Flags) -> Bounds:
    """Bounds of the leaf that tells the segment best, by the harmonic mean of precision and coverage. IN x, mine."""
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=5, class_weight="balanced", random_state=0)
    middle = np.median(x, axis=1)
    scale = _exponents(x - middle[:, None])
    tree.fit(np.clip(np.ldexp(x - middle[:, None], -scale[:, None]), -_LARGEST, _LARGEST).T, mine)
    best, best_score = Bounds(), 0.0
    pending: list[tuple[int, Bounds]] = [(0, {})]
    while pending:
        node, bounds = pending.pop()
        left, right = int(tree.tree_.children_left[node]), int(tree.tree_.children_right[node])
        if left != right:
            feature, threshold = int(tree.tree_.feature[node]), float(tree.tree_.threshold[node])
            threshold = float(middle[feature] + np.ldexp(threshold, scale[feature]))
            low, high = bounds.get(feature, (-np.inf, np.inf))
            pending += [(left, bounds | {feature: (low, min(high, threshold))})]
            pending += [(right, bounds | {feature: (max(low, threshold), high)})]
        # Inner nodes count too: fewer conditions may say as much.
        caught = _within(x, bounds)
        score = 2.0 * np.count_nonzero(caught & mine) / (np.count_nonzero(caught) + np.count_nonzero(mine))
        if bounds and score > best_score + 0.01 * len(bounds):
            best, best_score = bounds, score
    return best


def _exponents(x: Array) -> Ints:
    """Powers of two that bring features near 1, (n_features,): trees compute with 32 bits. IN x (n_features, n_rows)."""
    exponents: Ints = np.frexp(np.quantile(np.abs(x), 0.9, axis=1))[1].astype(np.int64)
    return exponents


def _within(x: Array, bounds: Bounds) -> Flags:
    caught = np.ones(x.shape[1], dtype=np.bool_)
    for feature, (low, high) in bounds.items():
        caught &= (x[feature] > low) & (x[feature] <= high)
    return caught


def _in_words(bounds: Bounds, x: Array, spec: ModelSpec) -> str:
    words = []
    for feature, (low, high) in sorted(bounds.items()):
        logged = spec.features[feature].transform == "log1p"
        name = spec.names[feature]
        apart = float(np.subtract(*np.quantile(x[feature], [0.9, 0.1])))
        below, above = (_short(value, apart, logged) for value in (low, high))
        words.append(
            f"{name} <= {above}"
            if low == -np.inf
            else f"{name} > {below}"
            if high == np.inf
            else f"{below} < {name} <= {above}"
        )
    return " and ".join(words)


def _short(value: float, apart: float, logged: bool) -> str:
    """With four digits, or as many as tell it from what is a thousandth of `apart` away."""
    if logged or not np.isfinite(value):
        return f"{float(signed_expm1(np.array([value]))[0]) if np.isfinite(value) else value:.4g}"
    digits = 4 + (int(np.ceil(np.log10(abs(value) / apart))) if 0.0 < apart < abs(value) else 0)
    return f"{value:.{min(digits, 17)}g}"

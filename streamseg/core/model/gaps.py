"""Gaps between segments: how many have one around them, and which have none any more.

Those are parts of one segment, into which a center that was left over cut it, and are joined. Only where segments were
natural to begin with: where customers have no gaps, that there is none is no reason to join.
"""

from __future__ import annotations

import numpy as np

from streamseg.core.model.segment_count import MIN_ROWS, by_mixture, means_by_label
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.clusters import nearest_label
from streamseg.core.numeric.separation import LEAST_AT_AN_END, crowding, dithered, passes, valley_ratios
from streamseg.core.numeric.types import Array, Ints

# Parts of one segment have at least so many customers between them for each near the center of the smaller one: the halves
# of a normal cluster 1.3, two clusters 4 sigma apart 0.3, or 0.6 where one of them is a twentieth. A newborn has fewer. At a
# start less counts as a gap, as many numbers of centers are tried there.
_PARTS = 0.9
# Learned weight within which a customer was here lately.
RECENT = 2_000.0


def n_apart(x: Array, centers: Array, inverse: Array, least_at_an_end: int = LEAST_AT_AN_END) -> int:
    """How many segments have customers, and a valley around them.

    IN x (n_features, n_rows), centers (n_features, k), inverse (n_features,).
    """
    labels, _ = nearest_label(x, centers, inverse)
    among, places = np.unique(labels, return_inverse=True)
    return int(np.count_nonzero(passes(valley_ratios(x, places, centers[:, among], inverse, least_at_an_end))))


def with_newborn(x: Array, labels: Ints, centers: Array, inverse: Array) -> Ints | None:
    """Labels (n_rows,) by which the last segment has a valley around it; None where it has none.

    IN x (n_features, n_rows), labels (n_rows,), centers, inverse.
    """
    labels, centers, within = by_mixture(x, labels, centers, inverse)
    return labels if passes(valley_ratios(x, labels, centers, within), _PARTS)[-1] else None


def without_gaps(state: ModelState, spec: ModelSpec) -> Array | None:
    """The champion's centers, those without a gap between them joined; None where that changes nothing. IN all."""
    if not state.natural:
        return None
    champion, inverse, sample = state.tagging.centers.centers, state.metric.inverse(spec), state.sample
    x = sample.x[: spec.n_weighted, sample.positions > state.age - RECENT]
    labels, _ = nearest_label(x, champion, inverse)
    return joined(x, labels, champion, inverse, spec.seed)


def joined(x: Array, labels: Ints, centers: Array, inverse: Array, seed: int) -> Array | None:
    """Fewer centers, those without a gap between them being one; None where there is a gap between all.

    IN x (n_features, n_rows) of customers who were here lately: where segments move, older ones lie in the gaps of today;
    labels (n_rows,), centers (n_features, k), inverse (n_features,). Segments of fewer than 20 rows stay as they are. What
    is joined has a gap around it, and is not all there is.
    """
    k = centers.shape[1]
    if x.shape[1] < 2 * MIN_ROWS:
        return None
    x = dithered(x, seed)
    labels, _, within = by_mixture(x, labels, centers, inverse)
    there = np.bincount(labels, minlength=k) >= MIN_ROWS
    stay, whole, rows = np.ones(k, dtype=np.bool_), np.zeros(k, dtype=np.bool_), there[labels]
    x, labels = x[:, rows], labels[rows]
    while np.count_nonzero(there) > 1:
        places, among = (np.cumsum(there) - 1)[labels], np.flatnonzero(there)
        means = means_by_label(x, places, len(among))
        between = np.nan_to_num(crowding(x, places, means, within))
        if between.max() < _PARTS:
            break
        one, other = among[list(np.unravel_index(between.argmax(), between.shape))].tolist()
        labels = np.where(labels == other, one, labels)
        whole[one], whole[other], there[other], stay[other] = True, False, False, False
    else:
        return None
    if not whole.any() or not passes(valley_ratios(x, places, means, within), _PARTS)[whole[among]].all():
        return None
    out = centers.copy()
    out[:, among[whole[among]]] = means[:, whole[among]]
    return np.ascontiguousarray(out[:, stay])

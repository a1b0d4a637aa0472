"""The search for better centers, on the sample of customers. It runs between batches; what it finds is data in the log.

A refit is fitted on one half of the sample and offered only if it loses 2 % less than the champion on the other half. It
may not drop a segment that still has a valley around it: squared error alone would, as a rare segment costs little. Where
the free fit would, those segments keep their centers, and the others are fitted on the rest of the customers.

A new segment is looked for where the number is not given: one center more, that has a valley to all its neighbors, takes no
other's place, has at least 20 customers, and loses 2 % less on the other half. Where segments are natural, those without a
gap left between them are offered as one, and a refit may not leave fewer with a gap around them than there are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from streamseg.core.model.gaps import RECENT, joined, n_apart, with_newborn, without_gaps
from streamseg.core.model.initialization import clipped
from streamseg.core.model.lineage import lineage, paired
from streamseg.core.model.policy import ADVANTAGE
from streamseg.core.model.records import Refitted, Rescaled, Searched
from streamseg.core.model.reservoir import ROWS
from streamseg.core.model.rules import rules_of
from streamseg.core.model.segment_count import MIN_ROWS, means_by_label
from streamseg.core.model.spec import MAX_SEGMENTS, SETTLING_ROWS, ModelSpec
from streamseg.core.model.state import Metric, ModelState, traits_of
from streamseg.core.model.table import CLIPPED_AT
from streamseg.core.numeric.clusters import Centers, means_of, nearest_label
from streamseg.core.numeric.metric import is_off, squared_distances
from streamseg.core.numeric.moments import moments_of_rows
from streamseg.core.numeric.seeding import kmeans_labels
from streamseg.core.numeric.separation import dithered, passes, valley_ratios
from streamseg.core.numeric.types import Array, Flags, Ints

# Fewer customers than this for each segment say nothing of better centers.
_ROWS_EACH = 20
_NEW_TRIES = 20
# A rare segment is protected by the few of its customers that a sample has, if some of them were here within so much learned
# weight: where nobody comes to any more, a center is better used elsewhere.
_LEAST_PROTECTED, _LEAST_RECENT = 3, 2
# A refit of a table has to lose so much less on the other half: there, no trial on new events follows.
_TABLE_ADVANTAGE = 0.995


class _Data(NamedTuple):
    """`x` (n_weighted, n_rows) of the sample, `half` one half of those that stand for all customers, `rest` the other.

    `recent`: rows of customers who were here lately.
    """

    x: Array
    half: Flags
    rest: Flags
    recent: Flags
    inverse: Array
    champion: Array
    labels: Ints
    seed: int
    advantage: float = ADVANTAGE
    restarts: int = 4


def search(state: ModelState, spec: ModelSpec, digest: bytes = b"") -> Searched:
    """What is found, or nothing. IN all; only where the state is ready."""
    n, sample, inverse = spec.n_weighted, state.sample, state.metric.inverse(spec)
    x, champion = sample.x[:n], state.tagging.centers.centers
    k = champion.shape[1]
    labels, _ = nearest_label(x, champion, inverse)
    out = Searched(state.version, digest, state.search.number, None, None, rules_of(x, labels, state.ids, spec))
    if sample.n_rows < 2 * _ROWS_EACH * k:
        return out
    common, coin = np.arange(sample.n_rows) < ROWS, sample.halves
    recent = sample.positions > state.age - RECENT
    data = _Data(x, common & coin, common & ~coin, recent, inverse, champion, labels, spec.seed + state.search.number)
    found = _found(data, state, spec)
    if found is None and (fewer := without_gaps(state, spec)) is not None:
        found = "joined", fewer
    if found is not None:
        out.kind, out.centers = found[0], _weighed(data, found[1])
    return out


def _found(data: _Data, state: ModelState, spec: ModelSpec) -> tuple[Literal["born", "refit", "joined"], Array] | None:
    """One segment more, or better centers for as many."""
    k = data.champion.shape[1]
    if spec.n_segments is None and k < MAX_SEGMENTS and (born := _born(data)) is not None:
        return "born", born
    refit = _refit(data)
    if refit is not None and not (state.natural and _closes_gaps(data, refit)):
        return "refit", refit
    return None


def search_table(state: ModelState, spec: ModelSpec, digest: bytes = b"") -> Refitted | Rescaled:
    """Look for a better metric, then for better centers, on the panel of a table. IN all; the state must be ready."""
    n, panel = spec.n_weighted, state.panel
    assert panel is not None
    number, k = state.search.number, len(state.segments)
    out = Refitted(state.version, digest, number)
    metric = _metric_of(state, spec)
    if metric is not None:
        return Rescaled(state.version, digest, number, metric)
    assert state.population is not None
    panel = panel.take(~state.population.outliers(panel.x))
    common = panel.common
    if not spec.refits or int(np.count_nonzero(common)) < 2 * _ROWS_EACH * k:
        return out
    inverse, champion, coin = state.metric.inverse(spec), state.tagging.centers.centers, panel.halves
    x = panel.x[:n]
    labels, _ = nearest_label(x, champion, inverse)
    everyone = np.ones(panel.n_rows, dtype=np.bool_)
    # Searches of a table follow each other soon, each of another seed.
    data = _Data(
        x, common & coin, common & ~coin, everyone, inverse, champion, labels, spec.seed + number, _TABLE_ADVANTAGE, 1
    )
    found = _found(data, state, spec)
    if found is None and state.natural:
        fewer = joined(x[:, common], labels[common], champion, inverse, spec.seed)
        found = None if fewer is None else ("joined", fewer)
    if found is None:
        return out
    out.kind, centers = found[0], _weighed(data, found[1]).centers
    after, _ = nearest_label(x, centers, inverse)
    here = Metric(0, True, state.moments.mean, state.moments.variance())
    became = lineage(
        state.segments, labels, after, centers.shape[1], traits_of(spec, centers, here), state.next_id,
        state.version + 1, out.kind,
    )  # fmt: skip
    out.centers, out.segments, out.retired = centers, became.segments, became.retired
    out.rules = rules_of(x, after, [segment.id for segment in became.segments], spec)
    return out


def _metric_of(state: ModelState, spec: ModelSpec) -> Metric | None:
    """The panel's metric, where the one in force waits for it, or is off."""
    n, panel, metric = spec.n_weighted, state.panel, state.metric
    assert panel is not None
    if spec.unit_metric or int(np.count_nonzero(panel.common)) < SETTLING_ROWS:
        return None
    x = panel.x[:, panel.common]
    x[:n] = clipped(x[:n], spec)
    moments = moments_of_rows(x, np.ones(x.shape[1]), n)
    if metric.settled and not is_off(moments.variance()[:n], metric.variance[:n]):
        return None
    return Metric(metric.epoch + 1, True, moments.mean, moments.variance())


def _weighed(data: _Data, centers: Array) -> Centers:
    """Centers after a last step over all of the sample, as heavy as the customers that they were made of."""
    labels, _ = nearest_label(data.x, centers, data.inverse)
    fitted = means_of(data.x, labels, np.ones(data.x.shape[1]), centers.shape[1])
    fitted.centers = np.where(fitted.weights > 0.0, fitted.centers, centers)
    return fitted


def _loss(data: _Data, centers: Array, rows: Flags) -> float:
    """Mean squared distance, each clipped at ten times the champion's mean."""
    _, of_champion = nearest_label(data.x[:, rows], data.champion, data.inverse)
    most = CLIPPED_AT * float(np.add.reduce(of_champion)) / max(1, len(of_champion))
    _, squared = nearest_label(data.x[:, rows], centers, data.inverse)
    return float(np.add.reduce(np.minimum(squared, most))) / max(1, len(squared))


def _better(data: _Data, centers: Array) -> bool:
    return _loss(data, centers, data.rest) < data.advantage * _loss(data, data.champion, data.rest)


def _refit(data: _Data) -> Array | None:
    k = data.champion.shape[1]
    fitted = data.x[:, data.half]
    if np.unique(fitted, axis=1).shape[1] < k or k == 1:
        return None
    tries = [
        means_by_label(fitted, labels, k)
        for labels in (
            kmeans_labels(fitted, data.inverse, k, data.seed, data.restarts),
            kmeans_labels(fitted, data.inverse, k, data.seed, begin=data.champion),
        )
    ]
    best = min(tries, key=lambda centers: _loss(data, centers, data.half))
    if not _better(data, best):
        return None
    protected = _with_valleys(data)
    dropped = protected & ~_kept(data, best)
    if not dropped.any():
        return best
    around = _around(data, protected)
    if around is None or not _better(data, around) or (protected & ~_kept(data, around)).any():
        return None
    return around


def _with_valleys(data: _Data) -> Flags:
    """Segments of the champion that still have a valley around them, (k,)."""
    k = data.champion.shape[1]
    enough = np.bincount(data.labels, minlength=k) >= _LEAST_PROTECTED
    enough &= np.bincount(data.labels[data.recent], minlength=k) >= _LEAST_RECENT
    centers = means_by_label(data.x, data.labels, k)
    ratios = valley_ratios(dithered(data.x, data.seed), data.labels, centers, data.inverse, least_at_an_end=2)
    flags: Flags = enough & passes(ratios)
    return flags


def _closes_gaps(data: _Data, centers: Array) -> bool:
    """Whether fewer segments have a gap around them than the champion's."""
    x = dithered(data.x, data.seed)
    after, before = (n_apart(x, each, data.inverse, least_at_an_end=2) for each in (centers, data.champion))
    return after < before


def _kept(data: _Data, centers: Array) -> Flags:
    """Which of the champion's segments have a new center that is mostly theirs, (k,). One that was split is kept."""
    k = data.champion.shape[1]
    after, _ = nearest_label(data.x, centers, data.inverse)
    shared = np.zeros((k, centers.shape[1]))
    np.add.at(shared, (data.labels, after), 1.0)
    mostly: Flags = ((shared > 0.0) & (2.0 * shared >= shared.sum(axis=0))).any(axis=1)
    return mostly


def _around(data: _Data, protected: Flags) -> Array | None:
    """Centers in which the protected segments stay and the others are fitted on the other customers."""
    k = data.champion.shape[1]
    rows = data.half & ~protected[data.labels]
    n_free = k - int(np.count_nonzero(protected))
    if n_free < 1 or np.unique(data.x[:, rows], axis=1).shape[1] < n_free:
        return None
    labels = kmeans_labels(data.x[:, rows], data.inverse, n_free, data.seed, data.restarts)
    centers = data.champion.copy()
    centers[:, ~protected] = means_by_label(data.x[:, rows], labels, n_free)
    return centers


def _born(data: _Data) -> Array | None:
    """The champion's centers and one more, or None."""
    k = data.champion.shape[1]
    row = _far_row(data)
    if row is None:
        return None
    begin = np.concatenate([data.champion, data.x[:, row : row + 1]], axis=1)
    cut = _newborn_last(data, kmeans_labels(data.x, data.inverse, k + 1, data.seed, begin=begin))
    x = dithered(data.x, data.seed)
    labels = with_newborn(x, cut, means_by_label(x, cut, k + 1), data.inverse)
    if labels is None:
        return None
    counts = np.bincount(labels, minlength=k + 1)
    if counts.min() < 1 or counts[k] < MIN_ROWS:
        return None
    centers = means_by_label(data.x, labels, k + 1)
    fitted = means_by_label(data.x[:, data.half], labels[data.half], k + 1)
    seen = np.bincount(labels[data.half], minlength=k + 1) > 0
    return centers if _better(data, np.where(seen, fitted, centers)) else None


def _newborn_last(data: _Data, labels: Ints) -> Ints:
    """Labels (n_rows,) of k + 1 centers, numbered as those of the champion that they are nearest to, the one left over last.

    Of centers that moved on, the one that was added may have come to stand where another one was.
    """
    k = data.champion.shape[1]
    centers = means_by_label(data.x, labels, k + 1)
    off = (data.champion[:, :, None] - centers[:, None, :]) ** 2 * data.inverse[:, None, None]
    number = np.full(k + 1, k)
    for old, new in paired(np.add.reduce(off, axis=0)):
        number[new] = old
    return number[labels]


def _far_row(data: _Data) -> int | None:
    """The row to begin a new segment at: of those drawn by their squared distance, the one that most rows are nearer to.

    As in greedy k-means++ (Arthur and Vassilvitskii 2007, section 5); None where all rows lie on their centers.
    """
    _, squared = nearest_label(data.x, data.champion, data.inverse)
    most = CLIPPED_AT * 5.0 * float(np.add.reduce(squared)) / len(squared)
    share = np.where(squared < most, squared, 0.0)
    total = float(np.add.reduce(share))
    if total <= 0.0:
        return None
    tries = min(_NEW_TRIES, int(np.count_nonzero(share)))
    drawn = np.random.default_rng(data.seed).choice(len(squared), size=tries, replace=False, p=share / total)
    nearer = np.maximum(squared - squared_distances(data.x, np.ascontiguousarray(data.x[:, drawn]), data.inverse), 0.0)
    return int(drawn[np.add.reduce(nearer, axis=1).argmax()])

"""What a batch adds to the model: the partitions' shares as one record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np

from streamseg.kernel.forgetting import NEVER, guarded_times
from streamseg.kernel.types import Array
from streamseg.model.external import Unnamed
from streamseg.model.learning import collect
from streamseg.model.population import Sums
from streamseg.model.records import Delta, Upserts, WarmRows
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.model.table import CLIPPED_AT, panel_rows
from streamseg.processing.logs import customer_hash
from streamseg.processing.partition import PartitionResult
from streamseg.processing.rows_to_learn import Offered

# Events per reported sum of losses.
_PART_ROWS = 125


def learned(state: ModelState, spec: ModelSpec, digest: bytes, results: Mapping[int, PartitionResult]) -> Delta | Upserts:
    """The record of a batch. IN all."""
    out = _upserts(state, spec, digest, list(results.values())) if state.ready else _warm_up(state, spec, digest, results)
    for result in results.values():
        out.erased += [customer_hash(name) for name in result.erased_ids]
        out.customers += result.customers
        for segment, change in result.moved.items():
            out.moved[segment] = out.moved.get(segment, 0) + change
        for label, rows in result.unnamed.items():
            out.unnamed[label] = _together(out.unnamed.get(label), rows)
    return out


def _upserts(state: ModelState, spec: ModelSpec, digest: bytes, results: list[PartitionResult]) -> Upserts:
    shares = [result.share for result in results if result.share is not None]
    n, k = len(spec.features), len(state.segments)
    sums = Sums.empty(n, n - spec.n_weighted, k)
    for share in shares:
        sums = sums.plus(share.sums)
    assert state.population is not None
    rows = panel_rows(state.population, *_together_offered([share.offered for share in shares], n))
    gone = np.concatenate([np.empty(0, dtype=np.int64), *(share.gone for share in shares)]).astype(np.uint32)
    times, squared = _flat([share.times for share in shares]), _flat([share.squared for share in shares])
    clipped = np.minimum(squared, _most_loss(state, squared))
    clock, last, first, held = _clock(state, spec, times)
    out = Upserts(
        state.version, digest, state.population.epoch, clock, last, len(squared), 0, sums, rows, gone, {},
        float(np.add.reduce(clipped)), _losses(clipped), [], first_s=first, held_back=held,
    )  # fmt: skip
    if spec.make is not None:
        out.fed = _joined([share.every for share in shares], n)[: spec.n_weighted]
    if any(result.warm_up is not None for result in results):
        out.warm_up = _warm_rows(spec, results)
    return out


def _most_loss(state: ModelState, squared: Array) -> float:
    """What one event counts for at most."""
    mean = state.mean_loss
    if mean <= 0.0:
        mean = float(np.add.reduce(squared)) / max(1, len(squared))
    return CLIPPED_AT * mean if mean > 0.0 else np.inf


def _losses(clipped: Array) -> Array:
    edges = [*range(0, len(clipped), _PART_ROWS), len(clipped)]
    parts = [(end - first, float(np.add.reduce(clipped[first:end]))) for first, end in pairwise(edges)]
    return np.array(parts).reshape(-1, 2).T.copy()


def _clock(state: ModelState, spec: ModelSpec, times: Array) -> tuple[float, float, float | None, int]:
    """Largest time believed, the last one as it came, the first of all, and how many were held back. Seconds."""
    if not len(times):
        return state.clock, state.last_time, None, 0
    guarded, ahead = guarded_times(times, state.clock, state.last_time, spec.max_ahead)
    first = float(guarded[0]) if state.clock == NEVER else None
    return max(state.clock, float(guarded.max())), float(times[-1]), first, int(np.count_nonzero(ahead))


def _warm_up(state: ModelState, spec: ModelSpec, digest: bytes, results: Mapping[int, PartitionResult]) -> Delta:
    warm = [r.warm_up for r in results.values() if r.warm_up is not None]
    times = _flat([part.times for part in warm])
    every = _joined([part.every for part in warm], len(spec.features))
    fed = None if spec.make is None else every[: spec.n_weighted]
    return collect(state, spec, _warm_rows(spec, results.values()), len(times), float(len(times)), times, digest, fed)


def _warm_rows(spec: ModelSpec, results: Iterable[PartitionResult]) -> WarmRows:
    warm = [result.warm_up for result in results if result.warm_up is not None]
    at = _flat([part.at for part in warm])
    x = _joined([part.x for part in warm], len(spec.features))
    return WarmRows([key for part in warm for key in part.keys], np.ones(len(at)), at, x)


def _together(one: Unnamed | None, other: Unnamed) -> Unnamed:
    if one is None:
        return other
    rows = one.rows + other.rows
    mean = [a + (b - a) * (other.rows / rows) for a, b in zip(one.mean, other.mean, strict=True)]
    return Unnamed(0, rows, mean)


def _joined(parts: list[Array], n_rows: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, axis=1) if parts else np.empty((n_rows, 0))


def _flat(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)


def _together_offered(parts: list[Offered], n_rows: int) -> Offered:
    if parts:
        return Offered(*(np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)))
    none = np.empty(0, dtype=np.int64)
    return Offered(none, np.empty((n_rows, 0)), none, none.astype(np.bool_))

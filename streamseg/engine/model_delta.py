"""What a batch adds to the model: the partitions' shares as one record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from streamseg.core.model.external import Unnamed
from streamseg.core.model.records import Delta, Upserts, WarmRows
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.model.table import panel_rows
from streamseg.core.model.training import collect
from streamseg.core.numeric.types import Array
from streamseg.engine.log_records import customer_hash
from streamseg.engine.partition import PartitionResult
from streamseg.engine.training_rows import Offered


def learned(
    state: ModelState, spec: ModelSpec, digest: bytes, results: Mapping[int, PartitionResult], *, closes: bool
) -> Delta | Upserts:
    """The record of a batch, which closes the open step or does not. IN all."""
    out = _upserts(state, spec, digest, list(results.values())) if state.ready else _warm_up(state, spec, digest, results)
    out.closes = closes
    for result in results.values():
        if result.delta.mark.clock_us is not None:
            out.clock = max(out.clock, result.delta.mark.clock_us / 1e6)
        out.first_s = result.first_s if out.first_s is None else out.first_s
        out.held_back += result.held_back
        out.erased += [customer_hash(name) for name in result.erased_ids]
        out.customers += result.customers
        for segment, change in result.moved.items():
            out.moved[segment] = out.moved.get(segment, 0) + change
        for label, rows in result.unnamed.items():
            out.unnamed[label] = _together(out.unnamed.get(label), rows)
    return out


def _upserts(state: ModelState, spec: ModelSpec, digest: bytes, results: list[PartitionResult]) -> Upserts:
    shares = [result.share for result in results if result.share is not None]
    n = len(spec.features)
    assert state.population is not None
    sums = state.population.no_sums()
    for share in shares:
        sums = sums.plus(share.sums)
    rows = panel_rows(state.population, *_together_offered([share.offered for share in shares], n))
    gone = np.concatenate([np.empty(0, dtype=np.int64), *(share.gone for share in shares)]).astype(np.uint32)
    losses = np.concatenate([np.empty((3, 0)), *(share.losses for share in shares)], axis=1)
    _, n_events, loss = np.add.reduce(losses, axis=1).tolist()
    out = Upserts(
        state.version, digest, state.population.epoch, state.clock, int(n_events), 0, sums, rows, gone, {}, loss, losses, [],
    )  # fmt: skip
    if spec.make is not None:
        out.fed = _joined([share.every for share in shares], n)[: spec.n_weighted]
    if any(result.warm_up is not None for result in results):
        out.warm_up = _warm_rows(spec, results)
    return out


def _warm_up(state: ModelState, spec: ModelSpec, digest: bytes, results: Mapping[int, PartitionResult]) -> Delta:
    warm = [r.warm_up for r in results.values() if r.warm_up is not None]
    every = _joined([part.every for part in warm], len(spec.features))
    n, fed = every.shape[1], None if spec.make is None else every[: spec.n_weighted]
    return collect(state, spec, _warm_rows(spec, results.values()), n, float(n), None, digest, fed)


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

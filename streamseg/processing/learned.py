"""What a batch adds to the model: the partitions' shares as one delta."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamseg.kernel.types import Array, Ints
from streamseg.model.external import Unnamed
from streamseg.model.learning import Sampled, block_edges, collect, learn
from streamseg.model.records import Delta, WarmRows
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.processing.logs import customer_hash, sample_key
from streamseg.processing.partition import PartitionResult
from streamseg.processing.rows_to_learn import ToLearn


def learned(
    state: ModelState, spec: ModelSpec, digest: bytes, blocks: Mapping[int, int], results: Mapping[int, PartitionResult]
) -> Delta:
    """The delta of a batch. IN all; `blocks`: rows in each partition's open learning block."""
    if state.ready:
        delta = _of_rows(state, spec, digest, [(blocks[p], r.learn) for p, r in results.items() if r.learn is not None])
        if any(result.warm_up is not None for result in results.values()):
            delta.warm_up = _of_warm_up(state, spec, digest, results).warm_up
    else:
        delta = _of_warm_up(state, spec, digest, results)
    for result in results.values():
        delta.erased += [customer_hash(name) for name in result.erased_ids]
        delta.erased_rows += [sample_key(name) for name in result.erased_ids]
        for segment, change in result.moved.items():
            delta.moved[segment] = delta.moved.get(segment, 0) + change
        for label, rows in result.unnamed.items():
            delta.unnamed[label] = _together(delta.unnamed.get(label), rows)
    return delta


def _of_rows(state: ModelState, spec: ModelSpec, digest: bytes, shares: list[tuple[int, ToLearn]]) -> Delta:
    parts = [part for _, part in shares]
    edges = [0]
    for block, part in shares:
        edges += block_edges(block, part.x.shape[1], edges[-1])[1:]
    x = _joined([part.x for part in parts], len(spec.features))
    w, t = _flat([part.w for part in parts]), _flat([part.t for part in parts])
    given = None if spec.make is None else np.concatenate([np.empty(0, np.int64), *(part.given for part in parts)])
    return learn(state, spec, x, w, t, edges, digest, _sampled(parts) if spec.refits else None, given)


def _of_warm_up(state: ModelState, spec: ModelSpec, digest: bytes, results: Mapping[int, PartitionResult]) -> Delta:
    warm = [r.warm_up for r in results.values() if r.warm_up is not None]
    times, at = _flat([part.times for part in warm]), _flat([part.at for part in warm])
    n = len(at)
    before = np.cumsum([0.0, *(part.age for part in warm)]).tolist()
    if spec.forgetting.unit == "weight":
        at = _flat([state.age + age + part.ages for age, part in zip(before, warm, strict=False)])
    keys = [key for part in warm for key in part.keys]
    rows = WarmRows(keys, np.ones(n), at, _joined([part.x for part in warm], len(spec.features)))
    fed = None if spec.make is None else _joined([part.every for part in warm], len(spec.features))[: spec.n_weighted]
    return collect(state, spec, rows, len(times), before[-1], times, digest, fed)


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


def _sampled(parts: list[ToLearn]) -> Sampled:
    """Each customer's latest row among the batch's rows."""
    before = np.cumsum([0, *(part.x.shape[1] for part in parts)]).tolist()
    places: list[Ints] = [part.latest + first for part, first in zip(parts, before, strict=False)]
    keys = [key for part in parts for key in part.sample_keys()]
    joined = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
    return Sampled(joined, np.array(keys, dtype=np.int64))


def _flat(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)

"""Catalog records: what each segment is, in the user's units."""

from __future__ import annotations

import numpy as np

from streamseg.kernel import histogram
from streamseg.kernel.elementary import signed_expm1
from streamseg.kernel.types import Array
from streamseg.model.spec import ModelSpec
from streamseg.model.state import ModelState
from streamseg.records.outputs import SegmentRecord, encode_json, iso_time


def segment_records(state: ModelState, spec: ModelSpec, clock_us: int) -> list[SegmentRecord]:
    """One record for each segment of the champion. Only where the state is ready."""
    champion = state.tagging
    centers = np.concatenate([champion.centers.centers, _known(champion.profile.means, champion.profile.weights)])
    deviation = np.sqrt(state.moments.variance())
    z = (centers - state.moments.mean[:, None]) / np.where(deviation > 0.0, deviation, np.inf)[:, None]
    p50, p95 = histogram.quantile(champion.histogram, 0.5), histogram.quantile(champion.histogram, 0.95)
    total = sum(state.members.get(i, 0) for i in champion.ids)
    records = []
    for i, segment in enumerate(champion.segments):
        size = state.members.get(segment.id, 0)
        records.append(
            SegmentRecord(
                segment_id=segment.id,
                name=segment.name,
                status="active",
                predecessors=segment.predecessors,
                successors=(),
                center=dict(zip(spec.names, _in_users_units(centers[:, i], spec), strict=True)),
                z={name: round(float(value), 6) for name, value in zip(spec.names, z[:, i], strict=True) if value == value},
                size=size,
                share=round(size / total, 6) if total else 0.0,
                radius_p50=_radius(p50[i]),
                radius_p95=_radius(p95[i]),
                model_version=state.version,
                born_version=segment.born_version,
                updated_at=iso_time(clock_us),
            )
        )
    return records


def catalog_messages(state: ModelState, spec: ModelSpec, clock_us: int) -> list[tuple[bytes, bytes]]:
    """(key, value) for the catalog topic, keyed by segment id."""
    return [(str(r.segment_id).encode(), encode_json(r)) for r in segment_records(state, spec, clock_us)]


def _known(means: Array, weights: Array) -> Array:
    return np.where(weights > 0.0, means, np.nan)


def _in_users_units(center: Array, spec: ModelSpec) -> list[float | None]:
    logged = np.array([feature.transform == "log1p" for feature in spec.features])
    values = np.where(logged, signed_expm1(np.where(logged, center, 0.0)), center)
    return [None if np.isnan(value) else float(value) for value in values]


def _radius(squared: float) -> float | None:
    return None if np.isnan(squared) else round(float(np.sqrt(squared)), 6)

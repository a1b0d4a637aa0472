"""Catalog records: what each segment is, in the user's units."""

from __future__ import annotations

import numpy as np

from streamseg.core.model.assignment import radii_of
from streamseg.core.model.names import names_of, outdated
from streamseg.core.model.records import Decision, Start
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState, Rule, Segment, traits_now
from streamseg.core.model.transitions import apply
from streamseg.core.numeric.portable_math import signed_expm1
from streamseg.core.numeric.types import Array
from streamseg.formats.outputs import Driver, SegmentRecord, SegmentRule, encode_json, iso_time

_TOP_DRIVERS = 3


def segment_records(state: ModelState, spec: ModelSpec, clock_us: int) -> list[SegmentRecord]:
    """One record for each segment of the champion. Only where the state is ready."""
    centers = np.concatenate([state.tagging.centers.centers, _known(state.profile.means, state.profile.weights)])
    deviation = np.sqrt(state.moments.variance())
    z = (centers - state.moments.mean[:, None]) / np.where(deviation > 0.0, deviation, np.inf)[:, None]
    p50, p95 = radii_of(state)
    total = sum(state.members.get(i, 0) for i in state.ids)
    traits = traits_now(state, spec)
    means, ranges = _means(state, spec, centers), _ranges(state, spec)
    names, given = names_of(traits), [segment.name for segment in state.segments]
    unfit = [outdated(name, traits, i, given) for i, name in enumerate(given)]
    records = []
    for i, segment in enumerate(state.segments):
        size = state.members.get(segment.id, 0)
        records.append(
            SegmentRecord(
                segment_id=segment.id,
                name=segment.name,
                previous_name=segment.previous_name,
                status="active",
                predecessors=segment.predecessors,
                successors=segment.successors,
                why=segment.why,
                suggested_name=None if segment.given or not unfit[i] else names[i],
                rule=_rule(state.rules.get(segment.id)),
                center=dict(zip(spec.names, _in_users_units(centers[:, i], spec), strict=True)),
                z={name: round(float(value), 6) for name, value in zip(spec.names, z[:, i], strict=True) if value == value},
                drivers=_drivers(z[: spec.n_weighted, i], spec),
                size=size,
                share=round(size / total, 6) if total else 0.0,
                radius_p50=_radius(p50[i]),
                radius_p95=_radius(p95[i]),
                model_version=state.version,
                born_version=segment.born_version,
                updated_at=iso_time(clock_us),
                mean=dict(zip(spec.names, means[i], strict=True)),
                ranges=ranges[i],
            )
        )
    return records


def _means(state: ModelState, spec: ModelSpec, centers: Array) -> list[list[float | None]]:
    """Arithmetic means of each segment's customers, in the user's units; None where nothing is known."""
    means = centers.copy()
    means[spec.logged] = np.nan if state.raw_means is None else state.raw_means
    return [[None if np.isnan(value) else float(value) for value in column] for column in means.T]


def _ranges(state: ModelState, spec: ModelSpec) -> list[dict[str, tuple[float, float, float]]]:
    """Least, median and largest value of each feature among the panel's customers of each segment, in the user's units."""
    out: list[dict[str, tuple[float, float, float]]] = [{} for _ in state.segments]
    if state.panel is None or state.population is None:
        return out
    panel = state.panel.take(~state.population.outliers(state.panel.x))
    for i in range(len(out)):
        rows = panel.take(panel.places == i)
        for feature, row in zip(spec.features, rows.x, strict=True):
            there = ~np.isnan(row)
            if there.any():
                order = np.argsort(row[there], kind="stable")
                values, reached = row[there][order], np.cumsum(rows.weights[there][order])
                middle = values[np.searchsorted(reached, reached[-1] / 2.0)]
                # The panel is in single precision: what is below a millionth of its range is rounding.
                unit = max(abs(float(values[0])), abs(float(values[-1])), float(values[-1] - values[0])) * 1e-6
                found = np.array([values[0], middle, values[-1]])
                found = np.rint(found / unit) * unit if unit > 0.0 else found
                low, median, high = feature.raw(found).tolist()
                out[i][feature.name] = float(f"{low:.6g}"), float(f"{median:.6g}"), float(f"{high:.6g}")
    return out


def retired_records(retired: list[Segment], version: int, clock_us: int) -> list[SegmentRecord]:
    """The last record of segments that are no more."""
    return [
        SegmentRecord(
            segment_id=one.id,
            name=one.name,
            status="retired",
            predecessors=one.predecessors,
            successors=one.successors,
            why=one.why,
            suggested_name=None,
            rule=None,
            center={},
            z={},
            drivers=(),
            size=0,
            share=0.0,
            radius_p50=None,
            radius_p95=None,
            model_version=version,
            born_version=one.born_version,
            updated_at=iso_time(clock_us),
        )
        for one in retired
    ]


def catalog_of(state: ModelState, spec: ModelSpec, decision: Decision, clock_us: int) -> list[tuple[bytes, bytes]]:
    """What a decision changes in the catalog. INOUT state: it becomes what the decision makes of it.

    Nothing for what leaves segments as they are, and nothing for a decision that would not count.
    """
    before, retired = state.segments, len(state.retired)
    state.version = decision.base_version if isinstance(decision, Start) else state.version
    if not apply(state, spec, decision) or state.segments == before:
        return []
    gone = retired_records(state.retired[retired:], state.version, clock_us)
    return [(str(r.segment_id).encode(), encode_json(r)) for r in [*gone, *segment_records(state, spec, clock_us)]]


def catalog_messages(state: ModelState, spec: ModelSpec, clock_us: int) -> list[tuple[bytes, bytes]]:
    """(key, value) for the catalog topic, keyed by segment id."""
    return [(str(r.segment_id).encode(), encode_json(r)) for r in segment_records(state, spec, clock_us)]


def _drivers(z: Array, spec: ModelSpec) -> tuple[Driver, ...]:
    squared = spec.feature_weight * np.nan_to_num(z) * np.nan_to_num(z)
    total = float(squared.sum()) or 1.0
    order = np.argsort(-squared, kind="stable")[:_TOP_DRIVERS].tolist()
    return tuple(Driver(spec.names[j], round(float(z[j]), 3), round(float(squared[j]) / total, 3)) for j in order)


def _rule(rule: Rule | None) -> SegmentRule | None:
    return None if rule is None else SegmentRule(rule.text, rule.precision, rule.coverage)


def _known(means: Array, weights: Array) -> Array:
    return np.where(weights > 0.0, means, np.nan)


def _in_users_units(center: Array, spec: ModelSpec) -> list[float | None]:
    values = center.copy()
    values[spec.logged] = signed_expm1(center[spec.logged])
    return [None if np.isnan(value) else float(value) for value in values]


def _radius(squared: float) -> float | None:
    return None if np.isnan(squared) else round(float(np.sqrt(squared)), 6)

"""A model in force as a model file."""

from __future__ import annotations

import numpy as np

from streamseg.core.model.model_file import FittedFeature, FittedModel, FittedSegment
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState


def fitted_of(state: ModelState, spec: ModelSpec) -> FittedModel:
    """Whose nearest centers are the model's. Raises ValueError where there are no centers. IN both.

    Variances are what distances are divided by, so features of one group share theirs, and one that does not vary has 0.
    """
    if not state.ready or state.external is not None:
        raise ValueError("there is no model with centers yet" if not state.ready else "a factory's model has no centers")
    n = spec.n_weighted
    inverse = state.metric.inverse(spec)
    weights = spec.feature_weight
    variance = np.where(inverse > 0.0, weights / np.where(inverse > 0.0, inverse, 1.0), 0.0)
    features = [
        FittedFeature(
            name=feature.name,
            transform=feature.transform,
            weight=feature.weight,
            count=float(max(1, state.customers)),
            mean=float(state.metric.origin[j]),
            variance=float(variance[j]),
        )
        for j, feature in enumerate(spec.features[:n])
    ]
    centers = state.tagging.centers.centers[:n]
    segments = [
        FittedSegment(
            id=segment.id,
            name=segment.name,
            center=dict(zip(spec.names[:n], centers[:, i].tolist(), strict=True)),
            size=float(state.members.get(segment.id, 0)),
        )
        for i, segment in enumerate(state.segments)
    ]
    return FittedModel(features=features, segments=segments, scaling="none" if spec.unit_metric else "standard")

"""A model file as arrays, and arrays as a model file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamseg.core.model.model_file import FittedFeature, FittedModel, FittedSegment
from streamseg.core.model.spec import MAX_FEATURES, MAX_SEGMENTS
from streamseg.errors import ConfigError

Array = npt.NDArray[np.float64]


class Arrays(NamedTuple):
    """k segments of n features.

    Attributes:
        ids, sizes: (k,); names: (n,) of features.
        mean, scale: (n,) subtracted from values, and what distances are divided by: a feature's weight is part of it.
        z: (k, n) centers in multiples of `scale`.
    """

    ids: list[int]
    names: list[str]
    mean: Array
    scale: Array
    z: Array
    sizes: Array


def arrays_of(model: FittedModel) -> Arrays:
    """The same nearest centers as the model's. A feature that does not vary is divided by 1, and weighs nothing."""
    names = [feature.name for feature in model.features if feature.weight > 0.0]
    weighted = [feature for feature in model.features if feature.weight > 0.0]
    mean = np.array([feature.mean for feature in weighted])
    variance = np.array([feature.variance for feature in weighted])
    weight = np.array([feature.weight for feature in weighted])
    if model.scaling == "none":
        mean, variance = np.zeros_like(mean), np.ones_like(variance)
    flat = variance <= 0.0
    scale = np.where(flat, 1.0, np.sqrt(np.where(flat, 1.0, variance) / weight))
    centers = np.array([[segment.center[name] for name in names] for segment in model.segments])
    z = np.where(flat, 0.0, (centers - mean) / scale)
    sizes = np.array([segment.size for segment in model.segments])
    return Arrays([segment.id for segment in model.segments], names, mean, scale, z, sizes)


def model_of(
    names: Sequence[str], mean: Array, scale: Array, z: Array, *, ids: Sequence[int], sizes: Array | None = None,
    count: float = 1.0, scaled: bool = True, where: str = "",
) -> FittedModel:  # fmt: skip
    """Raises ConfigError where the numbers make no model."""
    k, n = z.shape
    if not 2 <= k <= MAX_SEGMENTS or n > MAX_FEATURES or n < 1:
        message = f"it has {k} segments of {n} features; a model has 2 to {MAX_SEGMENTS}, of 1 to {MAX_FEATURES}"
        raise ConfigError(message, where=where, hint="fit one with more, or fewer, clusters")
    if len(names) != n or len(mean) != n or len(scale) != n or len(set(names)) != n:
        raise ConfigError(f"{len(names)} names for {n} features", where=where, hint="name each column once")
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and np.isfinite(z).all()) or (scale <= 0.0).any():
        raise ConfigError(
            "a mean, a scale or a center is no finite number, or a scale is not above 0",
            where=where,
            hint="leave out rows with missing values, and columns that do not vary, before fitting",
        )
    features = [
        FittedFeature(name=str(name), count=count, mean=float(m), variance=float(s * s))
        for name, m, s in zip(names, mean, scale, strict=True)
    ]
    segments = [
        FittedSegment(
            id=int(i),
            center={str(name): float(value) for name, value in zip(names, center, strict=True)},
            size=0.0 if sizes is None else float(sizes[place]),
        )
        for place, (i, center) in enumerate(zip(ids, mean + z * scale, strict=True))
    ]
    return FittedModel(features=features, segments=segments, scaling="standard" if scaled else "none")


def without_transforms(model: FittedModel, what: str) -> FittedModel:
    """Raises ConfigError where a feature is a logarithm, which the other side would have to take."""
    logged = [feature.name for feature in model.features if feature.transform != "none"]
    if logged:
        raise ConfigError(
            f"{', '.join(logged)} count by their logarithms, which {what} cannot say",
            hint="export with --as-is: its columns are then sign(x) * log1p(abs(x)) of those",
        )
    return model

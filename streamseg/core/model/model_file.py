"""A fitted model: what `streamseg fit` saves and a warm start reads."""

from __future__ import annotations

from typing import Literal

import msgspec


class FittedFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature and its moments over the customers that the model was fitted on, after `transform`."""

    name: str
    transform: Literal["none", "log1p"] = "none"
    weight: float = 1.0
    count: float
    mean: float
    variance: float


class FittedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment: `center` in feature units (after `transform`, unscaled), `size` customers.

    `mean`: arithmetic means of its customers in the user's units, where they are known.
    """

    id: int
    name: str = ""
    center: dict[str, float]
    size: float = 0.0
    mean: dict[str, float] | None = None


class FittedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Versioned content of a model file (JSON)."""

    format: Literal["streamseg-model"] = "streamseg-model"
    version: Literal[1] = 1
    features: list[FittedFeature]
    segments: list[FittedSegment]
    inertia: float | None = None
    scaling: Literal["standard", "none"] = "standard"


def save_fitted(model: FittedModel) -> bytes:
    return msgspec.json.format(msgspec.json.encode(model), indent=2) + b"\n"


def load_fitted(data: bytes) -> FittedModel:
    """Raises msgspec.DecodeError where the bytes are not a model file of this version."""
    return msgspec.json.decode(data, type=FittedModel)

"""ONNX: the scikit-learn pipeline of a model, converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from streamseg.core.model.model_file import FittedModel
from streamseg.errors import ConfigError
from streamseg.interop.arrays import arrays_of, without_transforms
from streamseg.interop.sklearn_pipeline import to_sklearn

Precision = Literal["float64", "float32"]


def write_onnx(model: FittedModel, path: Path, *, precision: Precision = "float64", as_is: bool = False) -> list[str]:
    """Input `x` (rows, features), output places in the segment ids. Raises ConfigError, OSError.

    Returns what the reader should know. In single precision rows about half-way between two centers may differ.
    """
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError:
        raise ConfigError("ONNX is written through skl2onnx", hint="install streamseg with its extra `interop`") from None
    import msgspec

    plain = model if as_is else without_transforms(model, "ONNX")
    plain = msgspec.structs.replace(
        plain, features=[msgspec.structs.replace(feature, transform="none") for feature in plain.features]
    )
    there = arrays_of(plain)
    kind = DoubleTensorType if precision == "float64" else FloatTensorType
    pipeline = to_sklearn(plain)
    converted = to_onnx(pipeline, initial_types=[("x", kind([None, len(there.names)]))])
    about = {
        "streamseg.segment_ids": json.dumps(there.ids),
        "streamseg.core.customers": json.dumps(there.names),
        "streamseg.not_in_it": "stickiness, re-tagging of silent customers, names",
    }
    for key, value in about.items():
        entry = converted.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(converted.SerializeToString())
    said = [f"label i is segment id {there.ids}[i]; features in the order {', '.join(there.names)}"]
    said.append("stickiness, re-tagging and names are not in it (its metadata says so)")
    return said

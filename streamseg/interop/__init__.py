"""Models of scikit-learn, R and Spark MLlib in and out, and ONNX out.

All go through a model file (`FittedModel`): moments of the features, centers and sizes of the segments. What distances are
divided by is each system's own deviation: scikit-learn's is that of the population, R's and Spark's that of a sample.
"""

from __future__ import annotations

from streamseg.interop.mllib import read_mllib, write_mllib
from streamseg.interop.onnx_out import write_onnx
from streamseg.interop.r import read_r, write_r
from streamseg.interop.sklearn_pipeline import from_sklearn, read_sklearn, to_sklearn, write_sklearn

__all__ = [
    "from_sklearn",
    "read_mllib",
    "read_r",
    "read_sklearn",
    "to_sklearn",
    "write_mllib",
    "write_onnx",
    "write_r",
    "write_sklearn",
]

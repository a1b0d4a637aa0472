"""Customer segments while the events flow: a streaming segmenter, exactly once, with a record of every change.

The estimators are imported when they are first asked for, so that the command line need not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.estimators import KMeans, Segmenter, StandardScaler

__all__ = ["KMeans", "Segmenter", "StandardScaler"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("streamseg.estimators"), name)
    raise AttributeError(f"module 'streamseg' has no attribute {name!r}")

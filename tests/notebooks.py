"""A notebook's customers and its models, and what a model says of customers by NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamseg.core.model.model_file import FittedModel
from streamseg.interop.arrays import arrays_of

COLUMNS = ["age", "income", "purchases"]


def customers(n: int = 20_000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 5, n)
    return pd.DataFrame(
        {
            "age": 30 + 8 * group + rng.normal(0, 4, n),
            "income": 2e4 + 1e4 * (group % 3) + rng.normal(0, 3e3, n),
            "purchases": rng.poisson(2 + 3 * (group % 4)).astype(float),
        }
    )


FRAME = customers()


def nearest(model: FittedModel, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Ids of the nearest centers, by NumPy alone."""
    there = arrays_of(model)
    z = (frame[there.names].to_numpy() - there.mean) / there.scale
    far = ((z[:, None, :] - there.z[None]) ** 2).sum(axis=2)
    found: np.ndarray[Any, Any] = np.array(there.ids)[far.argmin(axis=1)]
    return found


def pipeline(k: int = 5) -> Any:
    return make_pipeline(StandardScaler(), KMeans(n_clusters=k, random_state=0)).fit(FRAME)

"""What the batch notebook does, once: scale, k-means, profiles; saved as a model that a stream can start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from streamseg.config import Config
from streamseg.errors import ConfigError
from streamseg.kernel.elementary import signed_log1p
from streamseg.kernel.types import MAX_MAGNITUDE
from streamseg.model.fitted import FittedFeature, FittedModel, FittedSegment
from streamseg.model.naming import Traits, names_of


def read_table(file: Path, config: Config) -> tuple[pd.DataFrame, int]:
    """Columns of the weighted features, complete rows only, and how many rows were left out. Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(f"there is no file {str(file)!r}", hint="name a table of customers, one a row")
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise ConfigError(
            f"cannot tell what {str(file)!r} holds by {file.suffix!r}", hint="end it in .jsonl, .csv or .parquet"
        )
    try:
        frame = read(file)
    except (ValueError, OSError, ImportError, pd.errors.ParserError) as error:
        raise ConfigError(f"cannot read {str(file)!r}: {error}", hint="its ending says what it is; text is UTF-8") from None
    features = [feature for feature in config.features if feature.weight > 0]
    for feature in features:
        if feature.one_hot is not None:
            raise ConfigError(f"fit takes numbers only, feature {feature.name!r} is a text field")
        if feature.name not in frame.columns:
            columns = ", ".join(map(str, frame.columns))
            raise ConfigError(
                f"{str(file)!r} has no column {feature.name!r}, it has: {columns}",
                hint="name the features in streamseg.toml ([[features]])",
            )
    try:
        numbers = frame[[feature.name for feature in features]].astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{str(file)!r} has a value that is no number: {error}") from None
    # As of events: what is larger overflows when it is squared, and is a mistake.
    complete = (np.abs(numbers.to_numpy()) <= MAX_MAGNITUDE).all(axis=1)
    return numbers[complete], int((~complete).sum())


def _read_json_lines(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json_lines),
}


def transformed(frame: pd.DataFrame, config: Config) -> NDArray[np.float64]:
    """Rows (n, n_features) as the model sees them. IN frame."""
    transforms = {feature.name: feature.transform for feature in config.features}
    x = frame.to_numpy(dtype=np.float64).copy()
    for j, name in enumerate(frame.columns):
        if transforms[name] == "log1p":
            x[:, j] = signed_log1p(x[:, j])
    return x


def fit_table(frame: pd.DataFrame, config: Config, n_segments: int, seed: int) -> FittedModel:
    """scikit-learn's StandardScaler and KMeans, with its defaults. Raises ConfigError where rows are too few."""
    transforms = {feature.name: feature.transform for feature in config.features}
    x = transformed(frame, config)
    if len(np.unique(x, axis=0)) < n_segments or n_segments < 1:
        raise ConfigError(f"{n_segments} segments need as many different customers, there are {len(np.unique(x, axis=0))}")
    scaler = StandardScaler()
    scaled = scaler.fit_transform(x)
    kmeans = KMeans(n_clusters=n_segments, random_state=seed).fit(scaled)
    order = np.argsort(-np.bincount(kmeans.labels_, minlength=n_segments), kind="stable")
    z = kmeans.cluster_centers_[order]
    centers = scaler.inverse_transform(z)
    sizes = np.bincount(kmeans.labels_, minlength=n_segments)[order]
    means = frame.groupby(kmeans.labels_).mean().to_numpy()[order].tolist()
    rows = [dict(zip(frame.columns, map(float, row), strict=True)) for row in means]
    silent = {feature.name for feature in config.features if feature.aggregate == "recency"}
    recency = np.array([name in silent for name in frame.columns], dtype=np.bool_)
    names = names_of(Traits.of(list(frame.columns), z.T, centers.T, np.zeros_like(recency), recency))
    features = [
        FittedFeature(name=name, transform=transforms[name], count=float(len(x)), mean=float(m), variance=float(v))
        for name, m, v in zip(frame.columns, scaler.mean_, scaler.var_, strict=True)
    ]
    segments = [
        FittedSegment(id=i, name=name, center=dict(zip(frame.columns, map(float, c), strict=True)), size=float(n), mean=mean)
        for i, (name, c, n, mean) in enumerate(zip(names, centers, sizes, rows, strict=True))
    ]
    return FittedModel(features=features, segments=segments, inertia=float(kmeans.inertia_))

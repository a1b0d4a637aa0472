"""What the batch notebook does, once: scale, k-means, profiles; saved as a model that a stream can start from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from streamseg.config import Config
from streamseg.config.tables import transformed
from streamseg.core.model.model_file import FittedFeature, FittedModel, FittedSegment
from streamseg.core.model.names import Traits, names_of
from streamseg.errors import ConfigError


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

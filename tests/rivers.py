"""Factories of river's models, for tests."""

from __future__ import annotations

from typing import Any

from river import cluster, preprocessing


def seeded() -> Any:
    return preprocessing.StandardScaler() | cluster.KMeans(n_clusters=3, halflife=0.05, sigma=2, seed=1)


def unseeded() -> Any:
    return preprocessing.StandardScaler() | cluster.KMeans(n_clusters=3, halflife=0.05, sigma=2)

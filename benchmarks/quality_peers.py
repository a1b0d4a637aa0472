"""Contestants: each yields the centers, in the rows' units, that stand before each chunk; None while there are none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from river import cluster, preprocessing
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.preprocessing import StandardScaler

from streamseg import KMeans as KMeansThatTunesItself
from streamseg import Segmenter

Array = npt.NDArray[np.float64]
CHUNK = 500
WARM_UP = 1_000
WINDOW = 3_000
HALF_LIVES = (100.0, 250.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0, 16_000.0, 32_000.0, None)
RIVER_HALF_LIVES = (0.01, 0.05, 0.2)
SPARK_DECAYS = (1.0, 0.9, 0.5)
CenterSeries = Iterator[Array | None]


def chunks(x: Array) -> Iterator[Array]:
    return (x[first : first + CHUNK] for first in range(0, len(x), CHUNK))


def of_segmenter(x: Array, w: Array | None = None, **settings: Any) -> CenterSeries:
    return (None if centers is None else centers[1] for centers in segments_of(x, w, **settings))


def segments_of(x: Array, w: Array | None = None, **settings: Any) -> Iterator[tuple[list[int], Array] | None]:
    """Ids and centers."""
    features = tuple(f"f{j}" for j in range(x.shape[1]))
    model = Segmenter(features, warm_up=WARM_UP, **settings)
    for i, chunk in enumerate(chunks(x)):
        found = model.centers
        yield (list(found), np.array([list(center.values()) for center in found.values()])) if found else None
        model.learn_many(chunk, None if w is None else w[i * CHUNK : i * CHUNK + len(chunk)])


def of_kmeans(x: Array, w: Array, k: int, scale: Array) -> CenterSeries:
    """Ours on rows that are scaled already."""
    model = KMeansThatTunesItself(k, half_life="auto", warm_up=WARM_UP)
    for i, chunk in enumerate(chunks(x * scale)):
        found = model.centers
        yield np.array([list(center.values()) for center in found.values()]) / scale if found else None
        model.learn_many(chunk, w[i * CHUNK : i * CHUNK + len(chunk)])


def of_river(x: Array, make: Callable[[], Any]) -> CenterSeries:
    """A river clusterer behind its StandardScaler."""
    scaler: Any = preprocessing.StandardScaler()  # river has no types
    model = make()
    names = list(range(x.shape[1]))
    for chunk in chunks(x):
        # Before a summary of its own, CluStream has none.
        known = [center for center in getattr(model, "centers", {}).values() if len(center) == len(names)]
        if scaler.counts and known:
            spread = np.sqrt([scaler.vars[j] for j in names])
            mean = np.array([scaler.means[j] for j in names])
            yield np.array([[center[j] for j in names] for center in known]) * spread + mean
        else:
            yield None
        for row in chunk.tolist():
            values = dict(zip(names, row, strict=True))
            scaler.learn_one(values)
            model.learn_one(scaler.transform_one(values))


def river_kmeans(k: int, half_life: float) -> Callable[[], Any]:
    return lambda: cluster.KMeans(n_clusters=k, halflife=half_life, seed=0)


def river_clustream(k: int) -> Callable[[], Any]:
    return lambda: cluster.CluStream(n_macro_clusters=k, max_micro_clusters=10 * k, time_gap=CHUNK, seed=0, halflife=0.4)


def river_streamkmeans(k: int) -> Callable[[], Any]:
    made: Any = cluster.STREAMKMeans  # river has no types
    return lambda: made(chunk_size=CHUNK, n_clusters=k, halflife=0.5, sigma=1.5, seed=0)


def of_minibatch(x: Array, k: int) -> CenterSeries:
    scaler, model = StandardScaler(), MiniBatchKMeans(k, random_state=0, n_init=10)
    for i, chunk in enumerate(chunks(x)):
        yield model.cluster_centers_ * scaler.scale_ + scaler.mean_ if i else None
        scaler.partial_fit(chunk)
        model.partial_fit(scaler.transform(chunk))


@cache
def spark() -> Any:
    """A session of one thread; None where pyspark is not installed."""
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        return None
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def of_spark(x: Array, k: int, scale: Array, decay: float) -> CenterSeries:
    """MLlib's StreamingKMeans, a chunk at a time, from k-means centers of the first 1,000 rows, in the judge's own scale."""
    from pyspark.mllib.clustering import StreamingKMeansModel

    context, model = spark().sparkContext, None
    for i, chunk in enumerate(chunks(x)):
        yield None if model is None else np.array(model.clusterCenters) / scale
        if model is not None:
            model.update(context.parallelize((chunk * scale).tolist(), 1), decay, "batches")
        elif (i + 1) * CHUNK >= WARM_UP:
            fitted = KMeans(k, n_init=10, random_state=0).fit(x[: (i + 1) * CHUNK] * scale)
            weights = np.bincount(fitted.labels_, minlength=k).astype(float)
            model = StreamingKMeansModel(fitted.cluster_centers_.tolist(), weights.tolist())


def of_window(x: Array, k: int, scale: Array) -> CenterSeries:
    """The oracle: it sees the chunk that it is judged on, in a window around it."""
    for i, _ in enumerate(chunks(x)):
        end = min(len(x), i * CHUNK + WINDOW // 2)
        window = x[max(0, end - WINDOW) : end] * scale
        yield KMeans(k, n_init=3, random_state=0).fit(window).cluster_centers_ / scale


def losses(x: Array, scale: Array, series: CenterSeries) -> Array:
    """Squared distance of each row from the nearest of the centers that stood before its chunk; NaN while there are none."""
    found = []
    for chunk, centers in zip(chunks(x), series, strict=True):
        if centers is None:
            found.append(np.full(len(chunk), np.nan))
        else:
            found.append((((chunk[:, None] - centers[None]) * scale) ** 2).sum(axis=2).min(axis=1))
    return np.concatenate(found)

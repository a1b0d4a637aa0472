"""A Prometheus histogram that takes a batch's values at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from streamseg.core.numeric.types import Array


class BulkHistogram(Collector):
    """A histogram that takes a batch's values at once."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...]) -> None:
        self._name, self._text = name, text
        self._edges = np.array(buckets)
        self._counts = np.zeros(len(buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: Array) -> None:
        counts = np.bincount(np.searchsorted(self._edges, values), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            running, total = np.cumsum(self._counts).tolist(), self._sum
        names = [*map(str, self._edges.tolist()), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], list(zip(names, running, strict=True)), total)
        yield family

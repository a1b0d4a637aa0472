"""A fixed stream through the estimators and the job; prints digests of all bytes that come out.

python -m tests.determinism.stream
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from streamseg import KMeans, Segmenter, StandardScaler
from streamseg.core.model.initialization import start_from_centers
from streamseg.core.numeric.types import Array
from streamseg.engine.ports import Topic
from tests.harness import BAD, event, fingerprint, published, restored, run_memory, settings_for, shoppers

FEATURES = [
    {"name": "age"},
    {"name": "spend", "field": "income", "aggregate": "sum", "half_life": "2h", "transform": "log1p"},
    {"name": "visits", "aggregate": "count", "half_life": "1h"},
    {"name": "basket", "field": "purchases", "aggregate": "mean", "half_life": "3h"},
    {"name": "gap", "aggregate": "gap", "half_life": "1d"},
]


def digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]


def estimators() -> dict[str, str]:
    # Multiples of 1/64, so that how random numbers are made on this machine does not matter.
    grid = np.random.default_rng(7).integers(-200, 200, size=(4000, 3)) / 64.0
    x = grid + np.repeat(np.array([[0.0, 0.0, 0.0], [9.0, 3.0, 1.0], [2.0, 9.0, 5.0], [7.0, 8.0, 0.0]]), 1000, axis=0)
    x = x[np.random.default_rng(8).permutation(len(x))]
    found = {}
    for half_life in (None, 300.0, "1h"):
        model = Segmenter(("a", "b", "c"), 4, half_life=half_life, warm_up=500)
        model.learn_many(x, t=np.arange(len(x)) * 7.0)
        found[f"segmenter {half_life}"] = digest(json.dumps(model.to_dict()), model.predict_many(x).tolist())
    found["segmenter that tunes itself"] = tuned(x)
    scaler = StandardScaler(half_life=100)
    kmeans = KMeans(n_clusters=3, warm_up=100)
    for row in x[:400].tolist():
        values = dict(zip("abc", row, strict=True))
        scaler.learn_one(values)
        kmeans.learn_one(scaler.transform_one(values))
    found["scaler and k-means"] = digest(scaler.means, scaler.variances, json.dumps(kmeans.to_dict()))
    return found


def tuned(x: Array) -> str:
    """Half-lives compete, and after a jump centers are looked for anew: with all that is decided on the way."""
    model = Segmenter(("a", "b", "c"), "auto", half_life="auto", warm_up=500)
    away = np.array([0.0, 20.0, 4.0])
    jumped = np.concatenate([x, x[::-1] * [1.0, -1.0, 1.0] + [4.0, 0.0, 8.0], x + away])
    model.learn_many(jumped, t=np.arange(len(jumped)) * 7.0)
    assert model._state.promotions > 0
    assert model._state.search.number > 0
    return digest(json.dumps(model.to_dict()), model.predict_many(jumped).tolist())


def job(warm_start: bool) -> str:
    settings = settings_for(20_000, 50, features=FEATURES, model={"segments": 3, "warm_up": 40, "retag_every": "3h"})
    centers = {i: {"age": 20.0 + 15 * i, "spend": 5.0, "visits": 1.0 + i, "basket": i + 0.5, "gap": 0.1} for i in range(3)}
    start = start_from_centers(settings.model, centers) if warm_start else None
    events = [*shoppers(1500, 80, 3), *BAD, event("c3", 8e4, erase=True), *shoppers(300, 120, 4)]
    store, _ = run_memory(events, settings, batch_records=170, warm_start=start)
    outputs = [published(store, topic) for topic in Topic]
    return digest(outputs, store.committed(), fingerprint(restored(store, settings)))


def main() -> None:
    print(json.dumps({**estimators(), "job": job(False), "job, warm start": job(True)}, indent=2))


if __name__ == "__main__":
    main()

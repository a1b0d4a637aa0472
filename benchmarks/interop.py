"""What it takes to bring a model in and out: 64 segments, 64 features, each system, without a JVM.

    python -m benchmarks.interop

Prints seconds of CPU and of wall time for an export and for the import of what it wrote, the median of five, beside the time
that scikit-learn's own loader (skops) takes for the same pipeline.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamseg.interop import (
    from_sklearn,
    read_mllib,
    read_r,
    read_sklearn,
    write_mllib,
    write_onnx,
    write_r,
    write_sklearn,
)

SEGMENTS = FEATURES = 64
REPEATS = 5


def timed(run: Callable[[Path], object], places: list[Path]) -> str:
    cpu, wall = [], []
    for place in places:
        before = time.process_time(), time.perf_counter()
        run(place)
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    return f"{statistics.median(cpu):8.3f} {statistics.median(wall):8.3f}"


def main() -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(20_000, FEATURES)), columns=[f"f{i}" for i in range(FEATURES)])
    pipeline = make_pipeline(StandardScaler(), KMeans(SEGMENTS, n_init=1, random_state=0)).fit(x)
    model = from_sklearn(pipeline)
    print(f"{SEGMENTS} segments, {FEATURES} features; median of {REPEATS}, seconds    CPU     wall")
    with tempfile.TemporaryDirectory() as directory:
        for name, write, read, ending in (
            ("sklearn", write_sklearn, read_sklearn, ".skops"),
            ("r", write_r, read_r, ".csv"),
            ("mllib", write_mllib, read_mllib, ""),
            ("onnx", write_onnx, None, ".onnx"),
        ):
            places = [Path(directory) / f"{name}{i}{ending}" for i in range(REPEATS)]
            print(f"{name:10} out {timed(lambda place: write(model, place), places):>44}")  # noqa: B023
            if read is not None:
                print(f"{name:10} in  {timed(read, places):>44}")
        theirs = [Path(directory) / f"theirs{i}.skops" for i in range(REPEATS)]
        for place in theirs:
            skops.io.dump(pipeline, place)
        print(f"{'skops':10} in  {timed(lambda place: skops.io.load(place, trusted=[]), theirs):>44}")


if __name__ == "__main__":
    main()

"""The model that tunes itself against fixed settings and peers, on the same events in the same order.

    python -m benchmarks.quality [--events N] [--seeds N] [gate] [loss] [churn]

`loss`: prequential: every 500 events are assigned with the centers that stood before them, in a scale that is the same for
all. Each figure is the ratio of our defaults (with k given, as the peers need it) to the best of the others' settings in
hindsight: half-lives of our own, steps of river's KMeans after its StandardScaler, scikit-learn's MiniBatchKMeans after its
StandardScaler, and a batch k-means on a window of 3,000 events as the oracle; the worst of the seeds. `gate`: how often the
number of segments is right. `churn`: share of idle customers who are elsewhere at the end than in the middle of a stream.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from river import cluster, preprocessing
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.preprocessing import StandardScaler

from streamseg import Segmenter

Array = npt.NDArray[np.float64]
CHUNK = 500
WARM_UP = 1_000
WINDOW = 3_000
HALF_LIVES = (100.0, 250.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0, 16_000.0, 32_000.0, None)
RIVER_HALF_LIVES = (0.01, 0.05, 0.2)
CenterSeries = Iterator[Array | None]


# -- Streams --------------------------------------------------------------------------------------------------------------


def centers_apart(rng: np.random.Generator, k: int, d: int, sigmas: float) -> Array:
    side = sigmas * max(1.2, k ** (1 / d)) * 1.1
    while True:
        found = rng.uniform(0, side, (k, d))
        off = np.linalg.norm(found[:, None] - found[None], axis=2) + 1e9 * np.eye(k)
        if off.min() >= sigmas:
            return found
        side *= 1.01


def stream(name: str, n: int, seed: int) -> Array:
    """Rows (n, 3 or more) of five segments at least 4 sigma apart, unless the name says otherwise."""
    rng = np.random.default_rng(seed)
    centers = centers_apart(rng, 5, 3, 4.0)
    which = rng.choice(5, n, p=rng.dirichlet(np.full(5, 3.0)))
    noise, t = rng.normal(size=(n, 3)), np.arange(n)[:, None] / n
    ways = rng.normal(size=(5, 3))
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    moved: dict[str, Callable[[], Array]] = {
        "still": lambda: centers[which],
        "slow": lambda: centers[which] + 6.0 * t * ways[which],
        "fast": lambda: centers[which] + 24.0 * t * ways[which],
        "jump": lambda: np.where(t < 0.6, centers[which], centers_apart(rng, 5, 3, 4.0)[which] + 5.0),
        "season": lambda: centers[which] + 3.0 * np.sin(6.0 * np.pi * t) * ways[which],
        "common": lambda: centers[which] + 30.0 * t * ways[0],
        "gain": lambda: np.where((which[:, None] == 0) & (t < 0.5), centers[1], centers[which]),
        "lose": lambda: np.where((which[:, None] == 0) & (t > 0.5), centers[1], centers[which]),
    }
    if name in moved:
        return moved[name]() + noise
    if name == "rare":
        truth = np.array([[0.0, 0, 0], [8, 0, 0], [4, 8, 0]])
        return truth[rng.choice(3, n, p=[0.599, 0.397, 0.004])] + noise
    if name.startswith("noise"):
        return np.hstack([centers[which] + noise, rng.normal(size=(n, int(name[5:])))])
    if name == "heavy":
        return np.exp((centers[which] / 3.0 + noise) / 2.0)
    raise ValueError(f"there is no stream {name!r}")


STREAMS = ("still", "slow", "fast", "jump", "season", "common", "gain", "lose", "rare", "noise5", "noise15", "heavy")


# -- Contestants: centers in the rows' units, before each chunk ------------------------------------------------------------


def of_segmenter(x: Array, **settings: Any) -> CenterSeries:
    features = tuple(f"f{j}" for j in range(x.shape[1]))
    model = Segmenter(features, warm_up=WARM_UP, **settings)
    for chunk in chunks(x):
        yield np.array([list(center.values()) for center in model.centers.values()]) if model.centers else None
        model.learn_many(chunk)


def of_river(x: Array, k: int, half_life: float) -> CenterSeries:
    scaler, model = preprocessing.StandardScaler(), cluster.KMeans(n_clusters=k, halflife=half_life, seed=0)
    names = list(range(x.shape[1]))
    for chunk in chunks(x):
        if scaler.counts:
            spread = np.sqrt([scaler.vars[j] for j in names])
            mean = np.array([scaler.means[j] for j in names])
            yield np.array([[model.centers[i][j] for j in names] for i in range(k)]) * spread + mean
        else:
            yield None
        for row in chunk.tolist():
            values = dict(zip(names, row, strict=True))
            scaler.learn_one(values)
            model.learn_one(scaler.transform_one(values))


def of_minibatch(x: Array, k: int) -> CenterSeries:
    scaler, model = StandardScaler(), MiniBatchKMeans(k, random_state=0, n_init=10)
    for i, chunk in enumerate(chunks(x)):
        yield model.cluster_centers_ * scaler.scale_ + scaler.mean_ if i else None
        scaler.partial_fit(chunk)
        model.partial_fit(scaler.transform(chunk))


def of_window(x: Array, k: int, scale: Array) -> CenterSeries:
    """The oracle: it sees the chunk that it is judged on, in a window around it."""
    for i, _ in enumerate(chunks(x)):
        end = min(len(x), i * CHUNK + WINDOW // 2)
        window = x[max(0, end - WINDOW) : end] * scale
        yield KMeans(k, n_init=3, random_state=0).fit(window).cluster_centers_ / scale


def chunks(x: Array) -> Iterator[Array]:
    return (x[first : first + CHUNK] for first in range(0, len(x), CHUNK))


def losses(x: Array, scale: Array, series: CenterSeries) -> Array:
    """Squared distance of each row from the nearest of the centers that stood before its chunk; NaN while there are none."""
    found = []
    for chunk, centers in zip(chunks(x), series, strict=True):
        if centers is None:
            found.append(np.full(len(chunk), np.nan))
        else:
            found.append((((chunk[:, None] - centers[None]) * scale) ** 2).sum(axis=2).min(axis=1))
    return np.concatenate(found)


# -- Parts ----------------------------------------------------------------------------------------------------------------


def loss(n: int, seeds: int) -> None:
    print(
        "loss of the defaults over the best of: | half-lives | river | minibatch | window oracle | worst after a jump, then"
    )
    for name in STREAMS:
        rows = np.array([compared(name, n, seed) for seed in range(seeds)])
        print(f"{name:8s} " + "  ".join(f"{ratio:6.3f}" for ratio in rows.max(axis=0)), flush=True)


def compared(name: str, n: int, seed: int) -> list[float]:
    """Ratios, the worst of which over seeds is printed."""
    x, k = stream(name, n, seed), 3 if name == "rare" else 5
    scale = 1.0 / x[:WARM_UP].std(axis=0)
    counted = slice(WARM_UP + CHUNK, None)

    def mean(series: CenterSeries) -> float:
        # One event counts for at most so much that no contestant is judged by a single outlier.
        return float(np.minimum(losses(x, scale, series)[counted], 1e4).mean())

    ours = mean(of_segmenter(x, n_segments=k, half_life="auto"))
    return [
        ours / min(mean(of_segmenter(x, n_segments=k, half_life=half_life)) for half_life in HALF_LIVES),
        ours / min(mean(of_river(x, k, half_life)) for half_life in RIVER_HALF_LIVES),
        ours / mean(of_minibatch(x, k)),
        ours / mean(of_window(x, k, scale)),
    ]


def gate(n: int, seeds: int) -> None:
    """`n` and `seeds` do not matter: 50 mixtures of 1,000 customers each."""
    for noise, sigmas in ((0, 4.0), (0, 5.0), (5, 5.0)):
        right = 0
        for seed in range(50):
            rng = np.random.default_rng(1000 * int(sigmas) + seed)
            d, k = int(rng.integers(1, 4)), int(rng.integers(2, 11))
            d = 3 if d == 1 and k > 6 else d
            x = centers_apart(rng, k, d, sigmas)[rng.choice(k, WARM_UP, p=shares(rng, k))] + rng.normal(size=(WARM_UP, d))
            right += found_in(np.hstack([x, rng.normal(size=(WARM_UP, noise))])) == (k, True)
        print(f"{sigmas:.0f} sigma, {noise} noise features: k is right in {right} of 50 mixtures", flush=True)
    kinds: dict[str, Callable[[np.random.Generator], Array]] = {
        "Gaussian": lambda rng: rng.normal(size=(WARM_UP, 3)),
        "uniform": lambda rng: rng.uniform(size=(WARM_UP, 3)),
        "log-normal": lambda rng: np.exp(rng.normal(size=(WARM_UP, 3))),
        "t": lambda rng: rng.standard_t(3, size=(WARM_UP, 3)),
    }
    for name, draw in kinds.items():
        none = sum(not found_in(draw(np.random.default_rng(seed)))[1] for seed in range(25))
        print(f"{name}: no natural gaps in {none} of 25", flush=True)


def shares(rng: np.random.Generator, k: int) -> Array:
    while True:
        found = rng.dirichlet(np.full(k, 2.0))
        if found.min() >= 0.03:
            return found


def found_in(x: Array) -> tuple[int, bool]:
    """Segments of a warm-up, and whether they are natural."""
    model = Segmenter(tuple(f"f{j}" for j in range(x.shape[1])), n_segments="auto", warm_up=len(x))
    model.learn_many(x)
    return len(model.centers), bool(model._state.natural)


def churn(n: int, seeds: int) -> None:
    for name in ("still", "slow", "season", "heavy"):
        ours, theirs = [], []
        for seed in range(seeds):
            x = stream(name, n, seed)
            idle, scale = x[n // 2 - 2_000 : n // 2], 1.0 / x[:WARM_UP].std(axis=0)
            ours.append(moved(idle, scale, list(of_segmenter(x, n_segments=5, half_life="auto"))))
            theirs.append(min(moved(idle, scale, list(of_river(x, 5, half_life))) for half_life in RIVER_HALF_LIVES))
        print(
            f"{name:8s} idle churn over half the stream: ours {np.mean(ours):.2%}, river {np.mean(theirs):.2%}", flush=True
        )


def moved(idle: Array, scale: Array, series: list[Array | None]) -> float:
    """Share of rows that the last centers put elsewhere than those in the middle, by place."""
    middle, last = series[len(series) // 2], series[-1]
    assert middle is not None
    assert last is not None
    before, after = (((idle[:, None] - c[None]) * scale) ** 2 for c in (middle, last))
    return float((before.sum(axis=2).argmin(axis=1) != after.sum(axis=2).argmin(axis=1)).mean())


PARTS: dict[str, Callable[[int, int], None]] = {"gate": gate, "loss": loss, "churn": churn}


def main() -> None:
    warnings.filterwarnings("ignore", module="sklearn")
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.events, arguments.seeds)


if __name__ == "__main__":
    main()

"""Streams of customers, and the real baskets."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.application.demo_data import CONFIG_FILE, EVENTS_FILE, write_demo
from streamseg.application.wiring import past
from streamseg.config import load
from streamseg.engine.backtest import Rehearsal
from streamseg.engine.clock import SystemClock

Array = npt.NDArray[np.float64]
# By which a row of a customer who was here lately weighs less.
_HALF_LIFE_S = 90 * 86400.0
STREAMS = ("still", "slow", "fast", "jump", "season", "common", "gain", "lose", "rare", "noise5", "noise15", "heavy")


def centers_apart(rng: np.random.Generator, k: int, d: int, sigmas: float) -> Array:
    side = sigmas * max(1.2, k ** (1 / d)) * 1.1
    while True:
        found = rng.uniform(0, side, (k, d))
        off = np.linalg.norm(found[:, None] - found[None], axis=2) + 1e9 * np.eye(k)
        if off.min() >= sigmas:
            return found
        side *= 1.01


def shares(rng: np.random.Generator, k: int) -> Array:
    while True:
        found = rng.dirichlet(np.full(k, 2.0))
        if found.min() >= 0.03:
            return found


# How far each center has moved on its way after a share of the stream.
DRIFTS: dict[str, Callable[[Any], Any]] = {
    "still": lambda t: 0.0 * t,
    "slow": lambda t: 6.0 * t,
    "fast": lambda t: 24.0 * t,
    "season": lambda t: 3.0 * np.sin(6.0 * np.pi * t),
    "common": lambda t: 30.0 * t,
}


class Mixture:
    """Five segments at least 4 sigma apart, rows of each, and a way to go for each: of a common drift, one for all."""

    def __init__(self, name: str, n: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centers = centers_apart(self.rng, 5, 3, 4.0)
        self.which = self.rng.choice(5, n, p=self.rng.dirichlet(np.full(5, 3.0)))
        self.noise = self.rng.normal(size=(n, 3))
        ways = self.rng.normal(size=(5, 3))
        ways /= np.linalg.norm(ways, axis=1)[:, None]
        self.ways = np.broadcast_to(ways[0], ways.shape) if name == "common" else ways


def true_centers(name: str, n: int, seed: int, t: float) -> Array:
    """Of a stream that stands still or drifts, after a share `t` of it."""
    mixture = Mixture(name, n, seed)
    found: Array = mixture.centers + DRIFTS.get(name, DRIFTS["still"])(t) * mixture.ways
    return found


def stream(name: str, n: int, seed: int) -> Array:
    """Rows (n, 3 or more) of five segments at least 4 sigma apart, unless the name says otherwise."""
    mixture = Mixture(name, n, seed)
    rng, centers, which, noise = mixture.rng, mixture.centers, mixture.which, mixture.noise
    t = np.arange(n)[:, None] / n
    if name in DRIFTS:
        drifted: Array = centers[which] + DRIFTS[name](t) * mixture.ways[which] + noise
        return drifted
    moved: dict[str, Callable[[], Array]] = {
        "jump": lambda: np.where(t < 0.6, centers[which], centers_apart(rng, 5, 3, 4.0)[which] + 5.0),
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


def with_newcomers(n: int, seed: int, sigmas: float) -> Array:
    """Five segments; from the middle on 5 % of the rows are of a sixth, `sigmas` from its nearest."""
    rng = np.random.default_rng(seed)
    centers = centers_apart(rng, 6, 3, 4.0)
    off = np.linalg.norm(centers[:5] - centers[5], axis=1)
    near = centers[:5][off.argmin()]
    ways = rng.normal(size=(1000, 3))
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    apart = np.linalg.norm((near + sigmas * ways)[:, None] - centers[:5][None], axis=2).min(axis=1)
    new = near + sigmas * ways[np.argmax(apart >= sigmas * 0.999)]
    which = rng.choice(5, n, p=shares(rng, 5))
    newcomer = (np.arange(n) >= n // 2) & (rng.random(n) < 0.05)
    return np.where(newcomer[:, None], new, centers[which]) + rng.normal(size=(n, 3))


class Baskets(NamedTuple):
    """A year of baskets as the demo's job sees them: each row what its customer is like after it.

    `x` (n, d), `customers` (n,) numbers, `weights` (n,): how much each event counts, by the time since the one before it.
    """

    x: Array
    customers: npt.NDArray[np.int64]
    weights: Array


class _Rows:
    """Takes the place of a model, and keeps the rows that it is fed."""

    rows: ClassVar[list[list[float]]] = []

    def learn_one(self, x: dict[str, float]) -> None:
        self.rows.append(list(x.values()))

    def predict_one(self, x: dict[str, float]) -> int:
        return 0


@cache
def baskets() -> Baskets:
    _Rows.rows = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write_demo(directory)
        config = load(directory / CONFIG_FILE, {"input.path": str(directory / EVENTS_FILE)}, {}).config
        settings = config.job_settings()
        spec = msgspec.structs.replace(settings.model, make=_Rows, refits=False)
        rehearsal = Rehearsal(dataclasses.replace(settings, model=spec), SystemClock(), {0: 0}, config.input.batch_records)
        for batch in past(config).batches:
            rehearsal.feed(batch)
        rehearsal.feed({}, ended=True)
        lines = (directory / EVENTS_FILE).read_bytes().splitlines()
    events: list[dict[str, Any]] = [msgspec.json.decode(line) for line in lines]
    _, customers = np.unique([event["customer_id"] for event in events], return_inverse=True)
    times = (
        np.array([np.datetime64(event["event_time"].rstrip("Z")) for event in events]).astype("datetime64[s]").astype(float)
    )
    last = np.full(customers.max() + 1, -np.inf)
    gaps = np.empty(len(times))
    for i, customer in enumerate(customers):
        gaps[i], last[customer] = times[i] - last[customer], times[i]
    return Baskets(np.array(_Rows.rows), customers, 1.0 - 0.5 ** (gaps / _HALF_LIFE_S))

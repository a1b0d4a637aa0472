"""Drift of features and shares: false alarms, what is found and when, beside fixed thresholds and other detectors.

    python -m benchmarks.drift [--windows N]

Customers are independent. False alarms: share of windows in which a measure passes its critical value although nothing
changed. Found: customers after the change until drift is told, in a window of the latest 2,000; ADWIN sees means of 100.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN

from streamseg.core.model.drift import LEAST_PSI, Yardstick, psi
from streamseg.core.model.reference import Reference
from streamseg.core.model.spec import ModelFeature, ModelSpec

Array = npt.NDArray[np.float64]
REFERENCE = 1_000
WINDOW = 2_000
STEP = 100
SPEC = ModelSpec((ModelFeature("x"),))
DRAWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: np.exp(1.2 * rng.normal(size=n)),
    "t (3)": lambda rng, n: rng.standard_t(3, size=n),
    "count": lambda rng, n: rng.poisson(2.0, size=n).astype(float),
}


def yardstick(values: Array) -> Any:
    return Yardstick(Reference(list(range(len(values))), values[None]), SPEC)._features[0]


def false_alarms(windows: int) -> None:
    print("share of stationary windows beyond the critical value: index, distance | PSI > .1 | told as drift")
    for name, draw in DRAWS.items():
        for n in (100, 300, 1_000, 3_000, 10_000):
            rng = np.random.default_rng(n)
            index = distance = fixed = told = 0
            for _ in range(windows):
                found = yardstick(draw(rng, REFERENCE)).measured(draw(rng, n))
                index += found.psi.significant
                distance += found.distance.significant
                fixed += found.psi.value > LEAST_PSI
                told += found.drifted
            rates = "  ".join(f"{count / windows:6.2%}" for count in (index, distance, fixed, told))
            print(f"{name:11s} n = {n:6,}: {rates}", flush=True)
    for k in (3, 5, 10):
        for n in (100, 1_000, 10_000):
            rng = np.random.default_rng(k * n)
            shares = rng.dirichlet(np.full(k, 3.0))
            pairs = [(rng.multinomial(REFERENCE, shares), rng.multinomial(n, shares)) for _ in range(windows)]
            beyond = sum(psi(before, after).significant for before, after in pairs)
            print(f"shares of {k} segments, n = {n:6,}: {beyond / windows:6.2%}", flush=True)


def evidently_tells(reference: Array, window: Array) -> bool:
    """Evidently's default for numbers: above 1,000 rows Wasserstein / std > .1, below a Kolmogorov-Smirnov p < .05."""
    from scipy.stats import ks_2samp, wasserstein_distance

    if len(reference) > 1_000:
        return bool(wasserstein_distance(reference, window) / reference.std() > 0.1)
    return bool(ks_2samp(reference, window).pvalue < 0.05)


def detectors(reference: Array, stream: Array) -> Iterator[tuple[int, dict[str, bool]]]:
    """Customers so far, and what each detector says; windows move by 100."""
    made: Any = ADWIN  # river has no types
    known, adwin = yardstick(reference), made()
    for end in range(STEP, len(stream) + 1, STEP):
        window = stream[max(0, end - WINDOW) : end]
        adwin.update(float(stream[end - STEP : end].mean()))
        found = known.measured(window)
        yield (
            end,
            {
                "ours": found.drifted,
                "PSI > .1": found.psi.value > LEAST_PSI,
                "Evidently's default": evidently_tells(reference, window),
                "ADWIN of means": adwin.drift_detected,
            },
        )


def side_by_side(runs: int) -> None:
    changes: dict[str, Callable[[Array], Array]] = {
        "no change": lambda x: x,
        "median 40 % up": lambda x: x * 1.4,
        "median 80 % up": lambda x: x * 1.8,
    }
    print("log-normal spend, as it is and as log1p; alarms in 4,000 customers before, customers until told after")
    for transform, seen in (("raw", lambda x: x), ("log1p", np.log1p)):
        for change, apply in changes.items():
            said: dict[str, list[float]] = {}
            alarms: dict[str, int] = {}
            for seed in range(runs):
                rng = np.random.default_rng(seed)
                draw = DRAWS["log-normal"]
                reference = seen(50 * draw(rng, REFERENCE))
                before, after = 50 * draw(rng, 4_000), apply(50 * draw(rng, 4_000))
                first: dict[str, float] = {}
                for at, told in detectors(reference, np.concatenate([seen(before), seen(after)])):
                    for name, yes in told.items():
                        alarms[name] = alarms.get(name, 0) + (yes and at <= 4_000)
                        if yes and at > 4_000:
                            first.setdefault(name, at - 4_000)
                for name in told:
                    said.setdefault(name, []).append(first.get(name, math.inf))
            rows = "; ".join(f"{name} {alarms[name] / runs:.1f}, {np.median(delays):.0f}" for name, delays in said.items())
            print(f"{transform:5s} {change}: {rows}", flush=True)


def shares_found(runs: int) -> None:
    """A segment that grows from 20 to 30 %."""
    delays, fixed = [], []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        before = rng.multinomial(REFERENCE, [0.2, 0.3, 0.5])
        labels = np.concatenate([rng.choice(3, WINDOW, p=[0.2, 0.3, 0.5]), rng.choice(3, 4_000, p=[0.3, 0.2625, 0.4375])])
        first = first_fixed = math.inf
        for end in range(WINDOW + STEP, len(labels) + 1, STEP):
            after = np.bincount(labels[end - WINDOW : end], minlength=3)
            found = psi(before, after)
            off = np.abs(after / after.sum() - before / REFERENCE) / (before / REFERENCE)
            if found.significant and off.max() > 0.25:
                first = min(first, end - WINDOW)
            if found.value > LEAST_PSI:
                first_fixed = min(first_fixed, end - WINDOW)
        delays.append(first)
        fixed.append(first_fixed)
    print(
        f"a segment grows from 20 to 30 %: told after {np.median(delays):.0f} customers (worst {max(delays):.0f}), "
        f"PSI > .1 alone in {sum(map(math.isfinite, fixed))} of {runs} runs"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=500)
    windows = parser.parse_args().windows
    false_alarms(windows)
    side_by_side(max(5, windows // 25))
    shares_found(max(5, windows // 25))


if __name__ == "__main__":
    main()

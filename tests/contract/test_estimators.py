"""What river asks of an estimator, and what all three of ours promise."""

from __future__ import annotations

import inspect
import json
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import checks, compose
from river.checks import common

from streamseg import KMeans, Segmenter, StandardScaler

Estimator = Segmenter | KMeans | StandardScaler
MAKERS: dict[str, Callable[[], Estimator]] = {
    "segmenter": lambda: Segmenter(features=("a", "b"), n_segments=2, warm_up=10),
    "segmenter, forgetting": lambda: Segmenter(features=("a", "b"), n_segments=2, warm_up=10, half_life=50),
    "segmenter, warm start": lambda: Segmenter(("a", "b"), 2, start={3: {"a": 0.0, "b": 0.0}, 8: {"a": 9.0, "b": 9.0}}),
    "segmenter, first row's features": lambda: Segmenter(features=None, n_segments=2, warm_up=10),
    "k-means": lambda: KMeans(n_clusters=2, warm_up=10),
    "scaler": lambda: StandardScaler(),
    "scaler, forgetting": lambda: StandardScaler(half_life=20),
}
BAD_ROWS: list[dict[str, Any]] = [
    {"a": float("nan"), "b": 1.0},
    {"a": float("inf"), "b": 1.0},
    {"a": 1.0, "b": -float("inf")},
    {"a": 1e308, "b": 1.0},
    {"a": 1.0, "b": "text"},
    {"a": None, "b": 1.0},
    {"a": True, "b": 1.0},
    {"a": 10**400, "b": 1.0},
]


@pytest.fixture(params=MAKERS, name="make")
def _make(request: pytest.FixtureRequest) -> Callable[[], Estimator]:
    return MAKERS[request.param]


def rows(n: int = 60, seed: int = 0) -> list[dict[str, float]]:
    rng = random.Random(seed)
    return [{"a": rng.gauss(10.0 * (i % 2), 1.0), "b": rng.gauss(5.0 * (i % 2), 1.0)} for i in range(n)]


def state(model: Estimator) -> bytes:
    return pickle.dumps({name: value for name, value in vars(model).items() if name != "n_rejected"})


def infer(model: Estimator, x: dict[str, Any]) -> Any:
    return model.transform_one(x) if isinstance(model, StandardScaler) else model.predict_one(x)


@pytest.mark.parametrize("model", [Segmenter(), Segmenter(features=None), KMeans(), StandardScaler()], ids=repr)
def test_river_accepts_it(model: Estimator) -> None:
    checks.check_estimator(model)


class Dataset:
    """What river's checks iterate over; it has none for clusterers."""

    def __iter__(self) -> Iterator[tuple[dict[str, float], None]]:
        for row in rows(80):
            yield row | {"c": row["a"] * 2, "d": 1.0}, None


CHECKS: set[Any] = {
    check
    for name, check in vars(common).items()
    if name.startswith("check_") and list(inspect.signature(check).parameters) == ["model", "dataset"]
}
# `debug_one` is for pipelines and trees; the others are there under their own names for every kind of model.
NOT_OURS = {"check_debug_one"}


def _name(check: Any) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", sorted(CHECKS, key=_name), ids=_name)
def test_river_s_checks_with_data_pass(make: Callable[[], Estimator], check: Callable[..., None]) -> None:
    if check.__name__ in NOT_OURS:
        assert not hasattr(make(), "debug_one")
        return
    check(make(), Dataset())


def test_river_still_has_the_checks_that_matter() -> None:
    names = {check.__name__ for check in CHECKS}
    assert names >= {"check_learn_one", "check_pickling", "check_shuffle_features_no_impact", "check_emerging_features"}


def test_reading_changes_nothing_cold_or_warm(make: Callable[[], Estimator]) -> None:
    model = make()
    for learned in (0, 5, 40):
        for row in rows(learned):
            model.learn_one(row)
        before = state(model)
        for x in ({}, {"unseen": 1.0}, {"a": 1.0}, {"a": 1.0, "b": 2.0}):
            infer(model, x)
        frame = pd.DataFrame(rows(7))
        if isinstance(model, StandardScaler):
            model.transform_many(frame)
        else:
            model.predict_many(frame)
            model.assign_many(frame)
            _ = (model.centers, model.weights, model.to_dict())
        _ = (model.means, model.variances)
        assert state(model) == before


def test_bad_rows_are_counted_and_change_nothing(make: Callable[[], Estimator]) -> None:
    clean, dirty = make(), make()
    for i, row in enumerate(rows()):
        clean.learn_one(row)
        dirty.learn_one(BAD_ROWS[i % len(BAD_ROWS)])
        dirty.learn_one(row)
    assert state(dirty) == state(clean)
    assert dirty.n_rejected == len(rows())


def test_bad_rows_in_a_frame_are_counted_and_change_nothing() -> None:
    good = pd.DataFrame(rows(30))
    bad = pd.concat([good.iloc[:10], pd.DataFrame({"a": [np.nan, 1e308], "b": [1.0, 2.0]}), good.iloc[10:]])
    for make in (MAKERS["segmenter"], MAKERS["k-means"], MAKERS["scaler"]):
        clean, dirty = make(), make()
        clean.learn_many(good)
        dirty.learn_many(bad)
        assert dirty.n_rejected == 2
        if isinstance(clean, StandardScaler):
            assert dirty.means == clean.means
        else:
            assert isinstance(dirty, Segmenter | KMeans)
            assert dirty.centers == clean.centers


@pytest.mark.parametrize("cut", [0, 5, 10, 37])
def test_a_checkpoint_is_exact(cut: int) -> None:
    for make in (MAKERS["segmenter"], MAKERS["segmenter, forgetting"], MAKERS["segmenter, warm start"], MAKERS["k-means"]):
        whole = make()
        assert isinstance(whole, Segmenter | KMeans)
        for row in rows()[:cut]:
            whole.learn_one(row)
        text = json.dumps(whole.to_dict())
        restored = type(whole).from_dict(json.loads(text))
        for row in rows()[cut:]:
            whole.learn_one(row)
            restored.learn_one(row)
        assert json.dumps(restored.to_dict()) == json.dumps(whole.to_dict())
        assert "NaN" not in text
        assert "Infinity" not in text


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not a Segmenter"):
        Segmenter.from_dict(KMeans().to_dict())


def test_they_compose_in_a_pipeline() -> None:
    model = StandardScaler() | KMeans(n_clusters=2, warm_up=10)
    assert isinstance(model, compose.Pipeline)
    for row in rows():
        model.learn_one(row)
    assert model.predict_one({"a": 0.0, "b": 0.0}) != model.predict_one({"a": 10.0, "b": 5.0})


@pytest.mark.parametrize(
    "nonsense",
    [
        {"n_segments": -3}, {"n_segments": 0}, {"n_segments": 2.5}, {"n_segments": "many"}, {"n_segments": 65},
        {"warm_up": 3}, {"warm_up": 0}, {"half_life": 0}, {"half_life": -1.0}, {"half_life": "soon"},
        {"half_life": float("nan")}, {"features": ()},
        {"features": ("a", "a")}, {"features": "age"}, {"max_gain": 0.0}, {"max_gain": 1.5},
        {"clip_sigmas": -1.0}, {"max_ahead": -1.0}, {"seed": -1}, {"seed": 1.5}, {"start": {}},
        {"start": {0: {"age": 1.0}}, "n_segments": 1},
        {"start": {0: {"age": 1.0, "income": 1.0, "purchases": float("nan")}}, "n_segments": 1},
        {"start": {"x": {"age": 1.0, "income": 1.0, "purchases": 1.0}}, "n_segments": 1},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused_at_construction(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Segmenter(**nonsense)


def test_wrong_shapes_weights_and_times_are_refused() -> None:
    model = Segmenter(features=("a", "b"), n_segments=2, warm_up=5)
    with pytest.raises(ValueError, match="shape"):
        model.learn_many(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="weights"):
        model.learn_one({"a": 1.0, "b": 1.0}, w=-1.0)
    with pytest.raises(ValueError, match="finite"):
        model.learn_one({"a": 1.0, "b": 1.0}, t=float("nan"))
    with pytest.raises(ValueError, match="event time"):
        Segmenter(features=("a",), n_segments=1, warm_up=1, half_life="10s").learn_one({"a": 1.0})
    assert model.n_seen == 0

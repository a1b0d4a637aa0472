"""Laws of the learning core, on the estimator."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans as BatchKMeans

from streamseg import KMeans, Segmenter
from streamseg.core.model.model_file import FittedFeature, FittedModel, FittedSegment
from streamseg.core.numeric.types import Array

OFF: dict[str, Any] = {"max_gain": None, "clip_sigmas": None, "max_ahead": None}


def mixture(n: int, k: int, d: int, seed: int, apart: float = 8.0) -> Array:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, d)) * apart
    return centers[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def started(centers: list[float], **parameters: object) -> Segmenter:
    start = {i: {"x": center} for i, center in enumerate(centers)}
    return Segmenter(("x",), len(centers), start=start, **parameters)  # type: ignore[arg-type]


def test_each_center_is_the_exact_mean_of_the_rows_assigned_to_it() -> None:
    x = mixture(5000, 4, 3, 0)
    start = {i: {"a": x[i, 0], "b": x[i, 1], "c": x[i, 2]} for i in range(4)}
    model = Segmenter(("a", "b", "c"), 4, start=start, **OFF)
    assigned: dict[int, list[int]] = {i: [] for i in range(4)}
    for i, row in enumerate(x):
        given_row = dict(zip("abc", row.tolist(), strict=True))
        assigned[model.predict_one(given_row)].append(i)
        model.learn_one(given_row)
        model.close_step()
    assert sum(model.weights.values()) == 5000
    for i, rows in assigned.items():
        assert model.weights[i] == len(rows)
        exact = [math.fsum(x[rows, j]) / len(rows) for j in range(3)] if rows else list(start[i].values())
        assert list(model.centers[i].values()) == pytest.approx(exact, rel=1e-12)


def test_an_idle_center_does_not_move_when_the_scaler_does() -> None:
    model = started([10.0, 60.0, 1000.0])
    rng = np.random.default_rng(0)
    model.learn_many(np.where(np.arange(400) % 2, 10.1, 60.0)[:, None] + rng.normal(0, 0.01, (400, 1)))
    idle = model.centers[0]["x"]
    before = model.variances["x"]
    model.learn_many(1000.0 + rng.normal(0, 1.0, (5000, 1)))
    assert model.variances["x"] > 1.5 * before
    assert model.centers[0]["x"] == idle
    assert model.predict_one({"x": 10.0}) == 0
    assert model.predict_one({"x": 60.0}) == 1


@pytest.mark.parametrize("exponent", [-20, 1, 30])
def test_a_unit_that_is_a_power_of_two_changes_no_label(exponent: int) -> None:
    x = mixture(4000, 5, 2, 1, apart=2.0)
    scaled = x * np.array([2.0**exponent, 1.0])
    labels = []
    for rows in (x, scaled):
        model = Segmenter(("a", "b"), 5, warm_up=500)
        model.learn_many(rows)
        labels.append(model.predict_many(rows).to_numpy())
    assert np.array_equal(labels[0], labels[1])


@pytest.mark.parametrize("order", list(itertools.permutations([(0.0, 1.0), (5.0, 3.0), (20.0, 7.0)])), ids=str)
@pytest.mark.parametrize("chunks", [[3], [1, 1, 1], [2, 1], [1, 2]], ids=str)
def test_event_time_forgetting_does_not_depend_on_order_or_cuts(
    order: tuple[tuple[float, float], ...], chunks: list[int]
) -> None:
    model = started([0.0], half_life="10s", **OFF)
    at = 0
    for size in chunks:
        part = order[at : at + size]
        model.learn_many(np.array([[x] for _, x in part]), t=[t for t, _ in part])
        model = Segmenter.from_dict(model.to_dict())
        at += size
    assert model.centers[0]["x"] == pytest.approx(5.182652614207681, rel=1e-12)
    assert model.weights[0] == pytest.approx(1.6035533905932737, rel=1e-12)


def test_idle_time_scales_weights_and_moves_no_center() -> None:
    model = started([0.0, 100.0], half_life="10s", **OFF)
    model.learn_many(np.array([[1.0], [99.0]]), t=[0.0, 0.0])
    before = model.centers
    model.learn_one({"x": 99.0}, t=10 * 365 * 86400.0)
    model.close_step()
    assert model.centers[0] == before[0]
    assert model.weights[0] == 0.0
    assert model.weights[1] == 1.0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.sampled_from([None, 30.0, 300.0]))
def test_forgetting_by_position_does_not_depend_on_cuts(sizes: list[int], half_life: float | None) -> None:
    x = np.random.default_rng(5).normal(size=(sum(sizes), 1))
    whole, cut = started([0.0], half_life=half_life, **OFF), started([0.0], half_life=half_life, **OFF)
    whole.learn_many(x)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        cut.learn_many(part)
    assert cut.centers[0]["x"] == pytest.approx(whole.centers[0]["x"], rel=1e-11, abs=1e-13)
    assert cut.weights[0] == pytest.approx(whole.weights[0], rel=1e-11)
    assert cut.variances["x"] == pytest.approx(whole.variances["x"], rel=1e-10, abs=1e-13)


def test_blocks_are_the_same_however_batches_are_cut_at_their_edges() -> None:
    x = mixture(3000, 4, 2, 7, apart=3.0)
    models = [Segmenter(("a", "b"), 4, warm_up=500, half_life=400) for _ in range(2)]
    models[0].learn_many(x)
    for part in np.split(x, [500, 750, 1500, 2000]):
        models[1].learn_many(part)
    one, other = models
    assert one.predict_many(x).equals(other.predict_many(x))
    for segment, center in one.centers.items():
        assert list(other.centers[segment].values()) == pytest.approx(list(center.values()), rel=1e-9)


@pytest.mark.parametrize("half_life", [None, "1h"])
def test_merge_equals_learning_one_after_the_other(half_life: str | None) -> None:
    x = np.concatenate([np.random.default_rng(s).normal(c, 1.0, (300, 1)) for s, c in enumerate((0.0, 50.0))])
    x = x[np.random.default_rng(9).permutation(600)]
    t = np.arange(600.0)

    def learned(*parts: slice) -> Segmenter:
        model = started([0.0, 50.0], half_life=half_life, **OFF)
        for part in parts:
            model.learn_many(x[part], t=t[part])
        return model

    first, second, third = slice(0, 200), slice(200, 350), slice(350, 600)
    whole = learned(first, second, third)
    for a, b, c in itertools.permutations((first, second, third)):
        left, right = learned(a), learned(b)
        right.merge(learned(c))
        left.merge(right)
        for i in (0, 1):
            assert left.centers[i]["x"] == pytest.approx(whole.centers[i]["x"], rel=1e-11)
            assert left.weights[i] == pytest.approx(whole.weights[i], rel=1e-11)
        assert left.variances["x"] == pytest.approx(whole.variances["x"], rel=1e-10)
        assert left.n_seen == 600


def test_merge_takes_empty_sides_and_refuses_strangers() -> None:
    x = mixture(300, 2, 1, 3)
    learned = started([0.0, 5.0])
    learned.learn_many(x)
    before = learned.centers
    learned.merge(started([0.0, 5.0]))
    assert learned.centers == before
    with pytest.raises(ValueError, match="same start"):
        learned.merge(_learned_from(started([0.0, 6.0]), x))
    with pytest.raises(ValueError, match="different features"):
        learned.merge(started([0.0, 5.0], half_life=10))


def _learned_from(model: Segmenter, x: Array) -> Segmenter:
    model.learn_many(x)
    return model


def test_two_warm_ups_merge_into_one() -> None:
    x = mixture(400, 2, 2, 11)
    whole, one, other = (Segmenter(("a", "b"), 2, warm_up=300) for _ in range(3))
    whole.learn_many(x)
    one.learn_many(x[:200])
    other.learn_many(x[200:])
    assert one.centers == {}
    one.merge(other)
    assert one.n_seen == 400
    assert one.centers.keys() == whole.centers.keys()
    for i, center in whole.centers.items():
        assert list(one.centers[i].values()) == pytest.approx(list(center.values()), rel=1e-9)


def test_a_rare_segment_keeps_its_center() -> None:
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    model = Segmenter(("a", "b"), 3, start={i: {"a": c[0], "b": c[1]} for i, c in enumerate(centers)})
    for _ in range(60):
        which = rng.choice(3, size=256, p=[0.599, 0.397, 0.004])
        model.learn_many(centers[which] + rng.normal(size=(256, 2)))
    rare = np.array(list(model.centers[2].values()))
    assert np.linalg.norm(rare - centers[2]) < 1.0


def test_one_typo_hides_no_feature() -> None:
    x = mixture(4000, 3, 2, 2)
    clean, typo = Segmenter(("a", "b"), 3, warm_up=500), Segmenter(("a", "b"), 3, warm_up=500)
    clean.learn_many(x)
    spoiled = x.copy()
    spoiled[700, 0] = spoiled[100, 1] = 1e9
    typo.learn_many(spoiled)
    assert typo.n_clipped == 1
    assert typo.variances == pytest.approx(clean.variances, rel=0.1)
    agree = (clean.predict_many(x) == typo.predict_many(x)).mean()
    assert max(agree, 1 - agree) > 0.99


def test_max_gain_keeps_a_faded_center_calm() -> None:
    model = started([0.0, 100.0], half_life=10.0)
    model.learn_many(np.tile([[0.0], [100.0]], (50, 1)))
    model.learn_many(np.random.default_rng(0).normal(size=(5000, 1)))
    model.learn_one({"x": 105.0})
    model.close_step()
    assert model.weights[1] == pytest.approx(10.0)
    assert model.centers[1]["x"] == pytest.approx(100.5, abs=0.001)


def test_a_warm_start_from_centers_settles_its_metric_after_250_rows() -> None:
    model = started([0.0, 10.0])
    assert model.predict_one({"x": 1.0}) == 0
    model.learn_many(np.random.default_rng(0).normal(5.0, 5.0, (249, 1)))
    assert not model._state.metric.settled
    model.learn_one({"x": 5.0})
    model.close_step()
    assert model._state.metric.settled
    assert model._state.metric.variance[0] == pytest.approx(model.variances["x"], rel=1e-12)


def test_a_fitted_model_is_a_start_with_weights_and_ids() -> None:
    fitted = FittedModel(
        features=[FittedFeature(name="x", count=100.0, mean=5.0, variance=25.0)],
        segments=[FittedSegment(id=7, center={"x": 0.0}, size=60.0), FittedSegment(id=3, center={"x": 10.0}, size=40.0)],
    )
    model = Segmenter(("x",), 2, start=fitted)
    assert model.weights == {3: 40.0, 7: 60.0}
    assert model.predict_one({"x": 1.0}) == 7
    model.learn_one({"x": 61.0 / 61.0})
    model.close_step()
    assert model.weights[7] == 61.0
    assert Segmenter.from_dict(model.to_dict()).to_dict() == model.to_dict()


def test_dicts_frames_and_arrays_teach_the_same() -> None:
    x = mixture(600, 3, 2, 4)
    models = [Segmenter(("a", "b"), 3, warm_up=400) for _ in range(3)]
    models[0].learn_many(x)
    models[1].learn_many(pd.DataFrame(x[:, ::-1], columns=["b", "a"]))
    for row in x.tolist():
        models[2].learn_one({"b": row[1], "a": row[0], "other": "ignored"})
    models[2].close_step()
    assert models[0].centers == models[1].centers
    for i, center in models[0].centers.items():
        assert list(models[2].centers[i].values()) == pytest.approx(list(center.values()), abs=0.05)


def test_predictions_keep_the_index_and_missing_rows_get_minus_one() -> None:
    model = Segmenter(("a", "b"), 2, warm_up=50)
    frame = pd.DataFrame(mixture(60, 2, 2, 0), columns=["a", "b"], index=[f"c{i}" for i in range(60)])
    assert model.predict_many(frame).eq(-1).all()
    model.learn_many(frame)
    frame.loc["c3", "a"] = np.nan
    labels = model.predict_many(frame)
    assert labels.dtype == np.int64
    assert labels.index.equals(frame.index)
    assert labels["c3"] == -1
    assigned = model.assign_many(frame)
    assert list(assigned.columns) == ["segment_id", "distance", "runner_up_segment_id", "margin"]
    assert assigned["margin"].drop("c3").between(0, 1).all()
    assert (assigned["segment_id"] != assigned["runner_up_segment_id"]).drop("c3").all()


def test_fewer_distinct_rows_than_segments_wait() -> None:
    model = Segmenter(("a",), 3, warm_up=5)
    for _ in range(20):
        model.learn_one({"a": 1.0})
    assert model.centers == {}
    for i in range(60):
        model.learn_one({"a": float(i % 7)})
    assert len(model.centers) == 3


@pytest.mark.parametrize("k", [2, 3, 5])
def test_auto_finds_as_many_segments_as_there_are_natural_gaps_for(k: int) -> None:
    rng = np.random.default_rng(k)
    x = rng.normal(size=(1000, 2)) + np.array([[8.0 * (i % k), 8.0 * (i % k % 2)] for i in range(1000)])
    model = Segmenter(("a", "b"), n_segments="auto", half_life="auto", warm_up=1000)
    model.learn_many(x)
    assert len(model.centers) == k


def test_auto_says_that_there_are_no_natural_gaps_and_takes_a_stable_number() -> None:
    model = Segmenter(("a", "b"), n_segments="auto", warm_up=1000)
    model.learn_many(np.random.default_rng(0).normal(size=(1000, 2)))
    assert model._state.natural is False
    assert 3 <= len(model.centers) <= 8


def test_k_means_takes_inputs_as_they_are_scaled() -> None:
    x = mixture(2000, 3, 2, 6)
    model = KMeans(n_clusters=3, warm_up=500)
    model.learn_many(x)
    batch = BatchKMeans(3, n_init=10, random_state=0).fit(x)
    found = np.array(sorted(list(c.values()) for c in model.centers.values()))
    assert found == pytest.approx(np.array(sorted(batch.cluster_centers_.tolist())), abs=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_prequential_error_is_close_to_batch_k_means(seed: int) -> None:
    x = mixture(20_000, 5, 3, seed, apart=4.0)
    model = Segmenter(("a", "b", "c"), 5)
    errors = []
    for part in np.split(x, 80):
        centers = model.centers
        if centers:
            array = np.array([list(centers[i].values()) for i in model.predict_many(part)])
            errors.append(((part - array) ** 2 / x.var(axis=0)).sum(axis=1))
        model.learn_many(part)
    half = np.concatenate(errors)[-10_000:].mean()
    scaled = x / x.std(axis=0)
    batch = BatchKMeans(5, n_init=10, random_state=0).fit(scaled)
    assert half <= 1.02 * batch.transform(scaled[-10_000:]).min(axis=1).__pow__(2).mean()


def test_a_frame_of_equal_rows_waits_and_goes_on() -> None:
    model = Segmenter(("a",), 3, warm_up=5)
    model.learn_many(np.ones((13, 1)))
    assert model.centers == {}
    model.learn_many(np.arange(60.0)[:, None] % 7)
    assert len(model.centers) == 3
    assert model.n_seen == 73


@pytest.mark.parametrize("half_life", [None, 300.0, "5d"])
def test_merge_from_a_weighted_start_equals_learning_one_after_the_other(half_life: str | float | None) -> None:
    fitted = FittedModel(
        features=[FittedFeature(name="x", count=500.0, mean=5.0, variance=25.0)],
        segments=[FittedSegment(id=0, center={"x": 0.0}, size=300.0), FittedSegment(id=1, center={"x": 10.0}, size=200.0)],
    )
    rng = np.random.default_rng(2)
    x = np.where(rng.random(600) < 0.5, 0.0, 10.0)[:, None] + rng.normal(0.0, 1.0, (600, 1)) + 0.5
    t = np.arange(600.0) * 3600.0

    def learned(first: int, end: int) -> Segmenter:
        model = Segmenter(("x",), 2, half_life=half_life, start=fitted, **OFF)
        model.learn_many(x[first:end], t=t[first:end])
        return model

    whole, left, right = learned(0, 600), learned(0, 350), learned(350, 600)
    left.merge(right)
    assert left.n_seen == 600
    for i in (0, 1):
        # The right half never saw how the start faded in the left one's time; by position it fades in turn.
        assert left.centers[i]["x"] == pytest.approx(whole.centers[i]["x"], abs=1e-9 if half_life != "5d" else 0.05)
        assert left.weights[i] == pytest.approx(whole.weights[i], rel=1e-9 if half_life != "5d" else 0.05)


def test_a_frame_without_a_usable_row_changes_nothing() -> None:
    model = Segmenter(("a",), 2, warm_up=5)
    model.learn_many(np.arange(3.0)[:, None])
    before = model.to_dict() | {"n_rejected": 0}
    model.learn_many(np.full((4, 1), np.nan))
    assert model.to_dict() | {"n_rejected": 0} == before
    assert model.n_rejected == 4


@pytest.mark.parametrize(("k", "d"), [(3, 2), (20, 8)])
def test_one_row_is_in_the_segment_that_it_is_in_among_many(k: int, d: int) -> None:
    names = tuple(f"x{j}" for j in range(d))
    rng = np.random.default_rng(0)
    start = {3 * i: dict(zip(names, rng.normal(size=d).round(1).tolist(), strict=True)) for i in range(k)}
    model = Segmenter(names, k, start=start)
    for _ in range(2):
        # Halves, so that some rows lie exactly between two centers.
        rows = np.concatenate([rng.normal(size=(300, d)), rng.integers(-2, 3, (300, d)) / 2.0])
        one = [model.predict_one(dict(zip(names, row, strict=True))) for row in rows.tolist()]
        assert one == model.predict_many(rows).tolist()
        model.learn_many(rows)

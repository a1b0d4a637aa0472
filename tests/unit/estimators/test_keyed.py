"""Rows with keys: the job's model."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from streamseg import KMeans, Segmenter
from streamseg.core.model.spec import STEP
from streamseg.core.numeric.types import Array
from tests.harness import T0_MS, Event, event, run_memory, settings_for, tags

FEATURES = ("age", "income", "purchases")


def customers(n: int, seed: int = 0, who: int = 700) -> tuple[Array, list[str], Array]:
    """Rows (n, 3) of customers in three overlapping groups, one of which moves halfway; keys; times (s)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, who, n)
    centers = np.array([[30.0, 1_000.0, 2.0], [50.0, 4_000.0, 9.0], [65.0, 1_500.0, 20.0]])
    x = centers[ids % 3] + rng.normal(size=(n, 3)) * [9.0, 900.0, 3.0]
    x[n // 2 :] += np.where((ids[n // 2 :] % 3 == 1)[:, None], [9.0, 2_500.0, 6.0], 0.0)
    return x, [f"c{i}" for i in ids.tolist()], np.arange(n) * np.float64(60.0)


def as_events(x: Array, keys: list[str], t: Array) -> list[Event]:
    rows = zip(keys, t.tolist(), x.tolist(), strict=True)
    return [event(key, at, **dict(zip(FEATURES, row, strict=True))) for key, at, row in rows]


@pytest.mark.parametrize("n_segments", [3, "auto"])
def test_the_same_rows_in_the_same_order_give_the_jobs_tags(n_segments: int | str) -> None:
    x, keys, t = customers(5_200)
    # In the warm-up, and nowhere else.
    x[100, 1], keys[100] = 1e9, "typo"
    settings = settings_for(model={"warm_up": 400, "segments": n_segments})
    store, _ = run_memory(as_events(x, keys, t), settings, batch_records=5_000)
    of_job = [tag["segment_id"] for tag in tags(store) if tag is not None and tag["source"] is not None]
    mine = Segmenter(FEATURES, n_segments=n_segments, warm_up=400)
    found: list[int | None] = []
    for row, key, at in zip(x.tolist(), keys, (T0_MS / 1e3 + t).tolist(), strict=True):
        one = dict(zip(FEATURES, row, strict=True))
        segment = mine.predict_one(one, key=key)
        found.append(None if segment < 0 else segment)
        mine.learn_one(one, t=at, key=key)
    assert len(of_job) == 5_200
    assert found == of_job
    assert {None, 0, 1, 2} <= set(found)


def test_rows_at_once_and_one_by_one_are_the_same() -> None:
    x, keys, _ = customers(2_300)
    one, many = (Segmenter(FEATURES, n_segments=3, warm_up=300) for _ in range(2))
    for row, key in zip(x.tolist(), keys, strict=True):
        one.learn_one(dict(zip(FEATURES, row, strict=True)), key=key)
    for first in range(0, len(x), 701):
        frame = pd.DataFrame(x[first : first + 701], columns=FEATURES)
        many.learn_many(frame, keys=pd.Series(keys[first : first + 701]))
    assert one.to_dict() == many.to_dict()
    assert one.n_seen == many.n_seen == 2_300


def test_a_center_is_the_mean_of_the_latest_rows_of_its_customers() -> None:
    x, keys, _ = customers(4_000)
    model = Segmenter(FEATURES, n_segments=3, warm_up=300)
    model.learn_many(x, keys=keys)
    model.close_step()
    last = pd.DataFrame(x, columns=FEATURES).assign(key=keys).groupby("key").last()
    last["segment"] = [model.segment_of(key) for key in last.index]
    for segment, mean in last.groupby("segment").mean().iterrows():
        assert list(model.centers[int(str(segment))].values()) == pytest.approx(mean.tolist(), rel=1e-8)
    assert last["segment"].value_counts().to_dict() == model.weights
    assert model.segment_of("nobody") == -1


def test_a_row_is_learned_at_the_next_step_or_where_the_step_is_closed() -> None:
    x, keys, _ = customers(STEP + 20)
    model = Segmenter(FEATURES, n_segments=3, warm_up=100)
    model.learn_many(x[: STEP - 1], keys=keys[: STEP - 1])
    assert model.centers == {}
    assert model.n_seen == STEP - 1
    model.learn_many(x[STEP - 1 :], keys=keys[STEP - 1 :])
    before = model.centers
    assert len(before) == 3
    model.close_step()
    assert model.centers != before
    assert model.n_seen == STEP + 20


@pytest.mark.parametrize("how", ["json", "pickle", "copy"])
def test_it_goes_on_exactly_where_it_was_kept_with_rows_that_wait(how: str) -> None:
    x, keys, _ = customers(3_000)
    model = Segmenter(FEATURES, n_segments="auto", warm_up=300)
    model.learn_many(x[:1_777], keys=keys[:1_777])
    if how == "json":
        other = Segmenter.from_dict(json.loads(json.dumps(model.to_dict())))
    else:
        other = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
    assert other.n_seen == 1_777
    for each in (model, other):
        each.learn_many(x[1_777:], keys=keys[1_777:])
    assert other.to_dict() == model.to_dict()


def test_models_of_other_customers_are_merged_and_those_of_the_same_are_not() -> None:
    x, keys, _ = customers(3_000)
    whole, rest = (Segmenter(FEATURES, n_segments=3, warm_up=300) for _ in range(2))
    whole.learn_many(x[:2_000], keys=keys[:2_000])
    rest.learn_many(x[2_000:], keys=[f"other-{key}" for key in keys[2_000:]])
    n_customers = len(set(keys[:2_000])) + len(set(keys[2_000:]))
    whole.merge(rest)
    whole.close_step()
    assert sum(whole.weights.values()) == n_customers
    for key in (keys[0], f"other-{keys[2_500]}"):
        assert whole.segment_of(key) in whole.centers
    with pytest.raises(ValueError, match="customers are in both models, such as 'other-c1'"):
        whole.merge(rest)
    plain = Segmenter(FEATURES, n_segments=3)
    with pytest.raises(ValueError, match="rows without"):
        whole.merge(plain)


def test_keys_are_for_all_rows_or_none_and_for_the_segmenter() -> None:
    row = {"age": 1.0, "income": 2.0, "purchases": 3.0}
    keyed, plain = (Segmenter(FEATURES, n_segments=3) for _ in range(2))
    keyed.learn_one(row, key="a")
    plain.learn_one(row)
    with pytest.raises(ValueError, match="rows with keys were learned already"):
        keyed.learn_one(row)
    with pytest.raises(ValueError, match="rows without keys were learned already"):
        plain.learn_one(row, key="a")
    with pytest.raises(ValueError, match="KMeans takes no keys"):
        KMeans(3).learn_one({"x": 1.0}, key="a")
    with pytest.raises(ValueError, match="have no weight"):
        keyed.learn_one(row, w=2.0, key="a")
    with pytest.raises(ValueError, match="half_life has no meaning"):
        Segmenter(FEATURES, half_life="auto").learn_one(row, key="a")
    with pytest.raises(ValueError, match="1 rows and 2 keys"):
        keyed.learn_many(pd.DataFrame([row]), keys=["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        keyed.learn_one(row, t=float("nan"), key="a")
    keyed.learn_one({"age": 1.0}, key="a")
    assert (keyed.n_rejected, keyed.n_seen) == (1, 1)


def test_a_given_start_needs_no_warm_up() -> None:
    start = {7: {"age": 30.0, "income": 1e3, "purchases": 2.0}, 9: {"age": 60.0, "income": 2e3, "purchases": 20.0}}
    model = Segmenter(FEATURES, n_segments=2, start=start)
    model.learn_one({"age": 31.0, "income": 1e3, "purchases": 2.0}, key=4)
    assert model.predict_one({"age": 59.0, "income": 2e3, "purchases": 19.0}) == 9
    model.close_step()
    assert model.segment_of(4) == 7

"""Rows that are rare, extreme or late: none stops the model, blinds it, or changes what a segment is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamseg import KMeans, Segmenter
from streamseg.core.model.assignment import kept_segment_of
from streamseg.core.model.initialization import start_from_centers, start_from_fitted
from streamseg.core.model.model_file import FittedFeature, FittedModel, FittedSegment
from streamseg.core.model.policy import decided, due
from streamseg.core.model.records import Promoted, Renamed, Searched, Start
from streamseg.core.model.refit import search
from streamseg.core.model.rules import rules_of
from streamseg.core.model.spec import ModelFeature, ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.model.training import Sampled, block_edges, learn
from streamseg.core.model.transitions import apply
from streamseg.core.numeric.types import Array

CORNERS = np.array([[0.0, 0], [20, 0], [0, 20], [20, 20]])


def auto(**settings: Any) -> Segmenter:
    return Segmenter(("a", "b"), **{"n_segments": "auto", "half_life": "auto"} | settings)


def around(n: int, seed: int, centers: Array = CORNERS) -> Array:
    rng = np.random.default_rng(seed)
    rows: Array = centers[rng.integers(len(centers), size=n)] + rng.normal(size=(n, 2))
    return rows


@pytest.mark.parametrize("typo", [1e9, 1e39, 1e99])
@pytest.mark.parametrize("at", [3, 1_100, 1_500, 2_001])
def test_a_typo_neither_stops_nor_blinds_the_model(at: int, typo: float) -> None:
    model, x = auto(), around(8_000, 0)
    x[at, 0] = typo
    model.learn_many(x)
    assert len(model.centers) == 4
    assert model._state.mean_loss < 3.0
    assert model._state.rules.keys() == set(model.centers)


def test_features_of_any_size_have_rules() -> None:
    x = around(4_000, 1)
    plain, huge = auto(), auto()
    plain.learn_many(x)
    # Powers of two, so that nothing but the size differs.
    huge.learn_many(x * 2.0**300)
    assert huge.predict_many(x * 2.0**300).tolist() == plain.predict_many(x).tolist()
    told, of_plain = huge._state.rules, plain._state.rules
    assert {i: rule.precision for i, rule in told.items()} == {i: rule.precision for i, rule in of_plain.items()}


def test_a_rule_s_threshold_lies_between_what_it_tells_apart() -> None:
    x = np.concatenate([np.linspace(1.0, 2.0, 100), np.linspace(5.0, 6.0, 100), [1e60]])[None] * 1e-20
    labels = np.concatenate([np.zeros(100), np.ones(101)]).astype(np.int64)
    rules = rules_of(x, labels, [0, 1], ModelSpec((ModelFeature("a"),)))
    bound = float(rules[0].text.removeprefix("a <= "))
    assert 2e-20 <= bound < 5e-20


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9, 1.7e12])
def test_a_rule_tells_segments_apart_that_are_far_from_zero(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = offset + np.concatenate([rng.normal(0, 1, 200), rng.normal(20, 1, 200)])[None]
    rules = rules_of(x, np.repeat([0, 1], 200), [0, 1], ModelSpec((ModelFeature("a"),)))
    assert rules[0].precision == rules[1].precision == 1.0
    bound = float(rules[0].text.removeprefix("a <= "))
    assert 3.0 < bound - offset < 17.0
    assert len(rules[0].text) < 25


def test_rows_on_their_centers_leave_the_loss_able_to_rise() -> None:
    model = Segmenter(("a", "b"), n_segments=4, half_life="auto", warm_up=400)
    model.learn_many(np.tile(CORNERS, (500, 1)))
    assert model._state.mean_loss < 1e-9
    model.learn_many(np.tile(CORNERS + 5.0, (10, 1)))
    assert model._state.mean_loss > 1e-5


@pytest.mark.parametrize("times", [np.r_[4e9, 1.7e9 + 60.0 * np.arange(1, 400)], 1.7e9 - 86400.0 * np.arange(400)])
def test_a_warm_up_ends_though_its_first_event_is_ahead_of_the_others(times: Array) -> None:
    model = Segmenter(("a", "b"), n_segments=4, half_life="3650d", warm_up=20)
    model.learn_many(around(400, 2), t=times)
    assert len(model.centers) == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_refits_do_not_keep_a_half_life_from_being_promoted(seed: int) -> None:
    """Segments that begin to go round after they stood for long: each refit is better for a moment."""
    rng = np.random.default_rng(seed)
    n, begin = 40_000, 20_000
    which, way = rng.integers(3, size=n), np.maximum(np.arange(n) - begin, 0) / 1500.0
    x = CORNERS[which] + rng.normal(size=(n, 2))
    x[:, 0] += 6 * np.sin(way + which * 2)
    x[:, 1] += 6 * np.cos(way + which * 2)
    model = Segmenter(("a", "b"), n_segments=3, half_life="auto")
    model.learn_many(x)
    assert model._spec.speeds[model._state.champion].half_life == 25.0
    assert model._state.promotions <= 4


def with_newcomers() -> tuple[ModelState, ModelSpec, Searched]:
    """A state for which a search was made that found a new segment, and is on its way."""
    model = auto()
    model.learn_many(around(2_900, 3))
    state, spec = model._state, model._spec
    more = np.concatenate([CORNERS, [[60.0, 60.0]]])
    for i in range(40):
        learn_more(state, spec, around(250, 10 + i, more), i)
        if due(state, spec) == "search":
            found = search(state, spec)
            if found.kind == "born":
                return state, spec, found
            apply(state, spec, found)
    raise AssertionError("nothing was born")


def learn_more(state: ModelState, spec: ModelSpec, x: Array, number: int) -> None:
    places = np.arange(len(x))
    sampled = Sampled(places, 1_000_000 * (number + 1) + places)
    edges = block_edges(state.rows, len(x))
    apply(state, spec, learn(state, spec, np.ascontiguousarray(x.T), np.ones(len(x)), None, edges, sampled=sampled))


@pytest.mark.parametrize("of_newborn", [False, True])
def test_a_name_that_a_person_gave_while_a_promotion_was_on_its_way_stays(of_newborn: bool) -> None:
    state, spec, found = with_newcomers()
    apply(state, spec, found)
    more = np.concatenate([CORNERS, [[60.0, 60.0]]])
    for i in range(60):
        learn_more(state, spec, around(250, 100 + i, more), 100 + i)
        decision = decided(state, spec) if due(state, spec) else None
        if isinstance(decision, Promoted) and decision.segments is not None:
            break
        if decision is not None:
            apply(state, spec, decision)
    assert isinstance(decision, Promoted)
    assert decision.segments is not None
    name = decision.segments[-1].name if of_newborn else "Our best"
    assert apply(state, spec, Renamed(state.version, state.ids[0], name))
    assert apply(state, spec, decision)
    assert (state.segments[0].name, state.segments[0].given) == (name, True)
    names = [segment.name for segment in state.segments]
    assert len(set(names)) == len(names) == 5


def test_a_search_among_customers_of_whom_few_are_off_their_centers() -> None:
    model = Segmenter(("tier",), n_segments="auto", warm_up=999, clip_sigmas=None)
    model.learn_many(np.tile([0.0, 1, 2], 333)[:, None])
    x = np.random.default_rng(0).integers(2, size=(4_000, 1)).astype(float)
    x[[200, 300, 310, 320]], x[500] = 2.0, 2.5
    model.learn_many(x)
    assert len(model.centers) == 3


@pytest.mark.parametrize("largest", [7, 2**31 - 1, 2**62])
def test_segment_ids_may_be_large(largest: int) -> None:
    spec = ModelSpec((ModelFeature("a"),), 2, stickiness=0.05)
    state = ModelState.empty(spec)
    start: Start = start_from_centers(spec, {1: {"a": 0.0}, largest: {"a": 5.0}})
    apply(state, spec, start)
    rows = np.array([[0.0, 5.0, 2.55, 2.45, 0.0]])
    previous = np.array([1, 1, 1, largest, 3])
    assert kept_segment_of(state, spec, rows, previous).tolist() == [1, largest, 1, largest, 1]


@pytest.mark.parametrize("wrong", [-1, 2**63, True])
def test_an_id_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="segment ids are integers from 0 to"):
        Segmenter(("a",), n_segments=2, start={wrong: {"a": 0.0}, 5: {"a": 5.0}})


@pytest.mark.parametrize(("names", "message"), [(["a", "a"], "the same name"), ([""] * 65, "1 to 64 centers, not 65")])
def test_a_model_file_of_segments_that_cannot_be_told_apart_is_refused(names: list[str], message: str) -> None:
    segments = [FittedSegment(id=i, name=name, center={"a": float(i)}) for i, name in enumerate(names)]
    feature = FittedFeature(name="a", transform="none", count=10.0, mean=0.0, variance=1.0)
    with pytest.raises(ValueError, match=message):
        start_from_fitted(ModelSpec((ModelFeature("a"),)), FittedModel(features=[feature], segments=segments, inertia=0.0))


@pytest.mark.parametrize("size", [1e-90, 1e-150, 1e-156, 1e-160])
def test_a_feature_without_spread_worth_the_name_tells_nothing(size: float) -> None:
    x = around(2_000, 4)
    x[:, 1] *= size
    model = Segmenter(("a", "b"), n_segments=2, warm_up=1_000)
    model.learn_many(x)
    tags = model.assign_many(np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 1e100]]))
    assert np.isfinite(tags["distance"]).all()
    assert tags["segment_id"].nunique() == 2


def test_customers_of_no_weight_have_their_center_where_they_are() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 300), rng.normal(100, 1, 300), rng.normal(50, 1, 400)])[:, None]
    weights = np.ones(1_000)
    weights[300:600] = 0.0
    model = Segmenter(("a",), n_segments=3, warm_up=1_000)
    model.learn_many(x, w=weights)
    assert sorted(round(center["a"] / 10) for center in model.centers.values()) == [0, 5, 10]


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 19.99])
def test_a_rare_group_is_not_clipped_away_where_the_others_are_all_alike(value: float) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=1_000), np.full(1_000, value)])
    x[::125, 1] = value + 5.0
    model = Segmenter(("a", "fee"), n_segments=2, warm_up=1_000)
    model.learn_many(x)
    assert sorted(round(center["fee"] - value, 6) for center in model.centers.values()) == [0.0, 5.0]


def test_an_empty_first_frame_says_nothing_of_the_features() -> None:
    model = KMeans(n_clusters=2, warm_up=4)
    model.learn_many(pd.DataFrame())
    for value in (1.0, 2.0, 50.0, 51.0, 1.0, 49.0):
        model.learn_one({"x": value})
    assert model.n_seen == 6
    assert model.n_rejected == 0


@pytest.mark.parametrize("hours", [900, 1_073, 1_080, 2_000])
@pytest.mark.parametrize("max_gain", [0.1, None])
def test_a_batch_over_thousands_of_half_lives_keeps_what_its_first_rows_taught(hours: int, max_gain: float | None) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(5, 1, 250), rng.normal(100, 1, 250)])[:, None]
    t = np.concatenate([np.arange(250.0), hours * 3600.0 + np.arange(250.0)])
    found = []
    for cuts in ([500], [250, 500]):
        model = Segmenter(("a",), n_segments=2, half_life="1h", max_gain=max_gain, start={0: {"a": 0.0}, 1: {"a": 100.0}})
        for first, end in zip([0, *cuts], cuts, strict=False):
            model.learn_many(x[first:end], t=t[first:end])
        found.append(model.centers[0]["a"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("settings", [{"n_segments": "auto"}, {"n_segments": 3, "half_life": "auto"}])
def test_the_largest_seed_is_one(settings: dict[str, Any]) -> None:
    model = Segmenter(("a", "b"), seed=2**32 - 1, warm_up=200, **settings)
    model.learn_many(around(6_000, 5))
    assert len(model.centers) >= 3

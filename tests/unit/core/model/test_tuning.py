"""A model that tunes itself: half-lives, refits, births, identity."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg import Segmenter
from streamseg.core.model.codec import pack, unpack
from streamseg.core.model.initialization import start_from_centers
from streamseg.core.model.lineage import lineage
from streamseg.core.model.names import Traits
from streamseg.core.model.policy import better_half_life, decided, due
from streamseg.core.model.records import Dropped, Promoted, Renamed
from streamseg.core.model.spec import ModelFeature, ModelSpec, in_words
from streamseg.core.model.state import Candidate, ModelState, Segment, Trial
from streamseg.core.model.training import learn
from streamseg.core.model.transitions import apply
from streamseg.core.numeric.clusters import Centers
from streamseg.core.numeric.decay import Forgetting
from streamseg.core.numeric.types import Array

FEATURES = ("a", "b", "c")


def mixture(n: int, centers: Array, seed: int, shares: list[float] | None = None) -> Array:
    rng = np.random.default_rng(seed)
    x: Array = np.asarray(centers, dtype=float)[rng.choice(len(centers), n, p=shares)] + rng.normal(size=(n, 3))
    return x


def plain(z: Array) -> Traits:
    return Traits.of(["x"], z, z, np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_))


CENTERS = np.array([[0.0, 0, 0], [8, 0, 0], [0, 8, 0], [8, 8, 8]])


def nearest_distance(model: Segmenter, truth: Array) -> Array:
    found = np.array([list(center.values()) for center in model.centers.values()])
    distance: Array = np.linalg.norm(found[None] - np.asarray(truth)[:, None], axis=2).min(axis=1)
    return distance


def test_a_still_stream_promotes_nothing() -> None:
    model = Segmenter(FEATURES, n_segments=4, half_life="auto")
    model.learn_many(mixture(30_000, CENTERS, 0))
    assert model._state.promotions == 0
    assert model._spec.speeds[model._state.tagging.speed].unit == "none"


def test_a_moving_stream_promotes_a_shorter_half_life_and_ids_stay() -> None:
    model = Segmenter(FEATURES, n_segments=4, half_life="auto")
    x = mixture(30_000, CENTERS, 1)
    model.learn_many(x[:2_000])
    ids = list(model.centers)
    moved = x[2_000:] + 20.0 * np.arange(28_000)[:, None] / 28_000
    model.learn_many(moved)
    assert model._state.promotions >= 1
    assert model._spec.speeds[model._state.tagging.speed].unit == "weight"
    assert list(model.centers) == ids
    assert nearest_distance(model, CENTERS + 20.0).max() < 1.0


def test_what_all_segments_do_alike_is_followed_together() -> None:
    model = Segmenter(FEATURES, n_segments=4, half_life="auto")
    x = mixture(30_000, CENTERS, 2)
    model.learn_many(x[:2_000])
    ids = list(model.centers)
    model.learn_many(x[2_000:] + 60.0 * np.arange(28_000)[:, None] / 28_000)
    speed = model._spec.speeds[model._state.tagging.speed]
    assert np.isfinite(speed.common)
    assert "following together" in in_words(speed)
    assert list(model.centers) == ids
    assert nearest_distance(model, CENTERS + 60.0).max() < 1.0
    assert Segmenter.from_dict(model.to_dict()).to_dict() == model.to_dict()


@pytest.mark.parametrize("seed", range(3))
def test_a_stuck_start_is_left_by_a_refit_and_segments_that_are_no_more_say_what_became_of_them(seed: int) -> None:
    """Two centers share one segment, and one has two: k-means alone never gets out of that."""
    truth = np.array([[0.0, 0, 0], [40, 0, 0], [0, 40, 40], [0, 48, 40]])
    stuck = {0: (-0.8, 0.0, 0.0), 1: (0.8, 0.0, 0.0), 2: (40.0, 0.0, 0.0), 3: (0.0, 44.0, 40.0)}
    start = {i: dict(zip(FEATURES, c, strict=True)) for i, c in stuck.items()}
    model = Segmenter(FEATURES, n_segments=4, half_life="auto", start=start)
    model.learn_many(mixture(5_000, truth, seed))
    assert nearest_distance(model, truth).max() < 0.5
    state = model._state
    assert state.retired
    assert all(segment.successors and segment.why == "refit" for segment in state.retired)
    gone, there = {segment.id for segment in state.retired}, set(state.ids)
    assert not gone & there
    assert max(there) < state.next_id
    assert all(segment.predecessors for segment in state.segments if segment.why == "refit")


def test_a_new_segment_is_born_and_has_a_predecessor() -> None:
    model = Segmenter(FEATURES, n_segments="auto", half_life="auto")
    model.learn_many(mixture(6_000, CENTERS, 0))
    assert len(model.centers) == 4
    shares = [0.2375] * 4 + [0.05]
    later = mixture(4_000, np.concatenate([CENTERS, [[14.0, 0.0, 0.0]]]), 1, shares)
    found = None
    for i in range(0, len(later), 500):
        model.learn_many(later[i : i + 500])
        if found is None and len(model.centers) == 5:
            found = i + 500
    assert found is not None
    assert found <= 3_000
    (born,) = [segment for segment in model._state.segments if segment.why == "born"]
    assert born.id == 4
    assert born.predecessors == (model.predict_one({"a": 8.0, "b": 0.0, "c": 0.0}),)


@pytest.mark.parametrize("seed", range(3))
def test_many_newcomers_take_no_id_from_the_segment_that_they_were_put_in(seed: int) -> None:
    truth = 13.0 * np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    model = Segmenter(FEATURES, n_segments="auto", half_life="auto")
    model.learn_many(mixture(12_000, truth, seed))
    ids = model.predict_many(truth).tolist()
    assert len(set(ids)) == 5
    later = np.concatenate([truth, [[13.0, 0.0, 13.0]]])
    model.learn_many(mixture(6_000, later, seed + 100, [0.15] * 5 + [0.25]))
    assert model.predict_many(later).tolist() == [*ids, 5]


def test_a_challenger_forgets_with_the_speed_that_it_was_found_at() -> None:
    slow, fast = Forgetting("weight", 1_000.0), Forgetting("weight", 50.0)
    spec = ModelSpec((ModelFeature("a"),), n_segments=1, speeds=(fast, slow), warm_up=10)
    state = ModelState.empty(spec)
    apply(state, spec, start_from_centers(spec, {0: {"a": 0.0}}))
    centers = Centers(np.zeros((1, 1)), np.array([100.0]), np.array([100.0]))
    state.trial = Trial(Candidate(99, 0, centers), "refit")
    assert state.champion == 1
    rows = np.zeros((1, 50))
    apply(state, spec, learn(state, spec, rows, np.ones(50), None, [0, 50]))
    expected = 50.0 + sum(2.0 ** (-i / 50) for i in range(50))
    assert state.trial.candidate.centers.weights == pytest.approx([expected])


def test_nothing_is_born_on_a_still_stream_of_one_kind() -> None:
    for data in (np.random.default_rng(0).normal(size=(30_000, 3)), np.random.default_rng(1).standard_t(3, (30_000, 3))):
        model = Segmenter(FEATURES, n_segments="auto", half_life="auto")
        model.learn_many(data[:1_000])
        before = len(model.centers)
        model.learn_many(data[1_000:])
        assert len(model.centers) == before


@pytest.mark.parametrize("seed", range(3))
def test_refits_keep_a_rare_segment_where_it_is(seed: int) -> None:
    """Three segments of 59.9, 39.7 and 0.4 %, 8 sigma apart, 60 batches of 256: to split the largest would lose less."""
    truth = np.array([[0.0, 0, 0], [8, 0, 0], [4, 8, 0]])
    start = {i: dict(zip(FEATURES, c.tolist(), strict=True)) for i, c in enumerate(truth)}
    model = Segmenter(FEATURES, n_segments=3, half_life="auto", start=start)
    x = mixture(60 * 256, truth, seed, [0.599, 0.397, 0.004])
    for i in range(60):
        model.learn_many(x[i * 256 : (i + 1) * 256])
    assert model._state.search.number > 0
    assert np.linalg.norm(np.array(list(model.centers[2].values())) - truth[2]) < 1.0


def test_permuting_the_new_centers_changes_no_id() -> None:
    old = [Segment(i, f"s{i}") for i in range(3)]
    before = np.repeat([0, 1, 2], 50)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        place = np.argsort(order)
        found = lineage(old, before, place[before], 3, plain(np.zeros((1, 3))), 3, 9, "refit")
        assert [segment.id for segment in found.segments] == order
        assert found.retired == []


def test_a_split_segment_stays_with_its_larger_part_and_the_other_part_is_new() -> None:
    old = [Segment(0, "a"), Segment(1, "b")]
    before = np.repeat([0, 1], [100, 50])
    after = np.concatenate([np.repeat([0, 2], [70, 30]), np.repeat([1], 50)])
    found = lineage(old, before, after, 3, plain(np.array([[0.0, 1.0, -2.0]])), 7, 9, "refit")
    assert [segment.id for segment in found.segments] == [0, 1, 7]
    assert found.segments[2].predecessors == (0,)
    assert found.segments[2].name not in ("a", "b")


def tuned(n: int = 4_000) -> tuple[Segmenter, ModelState]:
    model = Segmenter(FEATURES, n_segments=4, half_life="auto")
    model.learn_many(mixture(n, CENTERS, 0), t=np.arange(n, dtype=float))
    return model, unpack(pack(model._state), ModelState)


def test_what_is_due_is_a_function_of_the_state_alone() -> None:
    model, state = tuned()
    for candidate in state.candidates[:1]:
        candidate.loss = 0.9 * state.tagging.loss
    assert due(state, model._spec) == "half_life"
    decision = decided(state, model._spec)
    assert isinstance(decision, Promoted)
    assert decision.candidate == state.candidates[0].id
    assert apply(state, model._spec, decision)
    assert state.champion == 0
    again = state.digest()
    assert not apply(state, model._spec, decision)
    state.version -= 1
    assert state.digest() == again


def test_a_tie_keeps_the_champion() -> None:
    model, state = tuned()
    for candidate in state.candidates:
        candidate.loss = state.tagging.loss
    assert due(state, model._spec) != "half_life"


def test_of_half_lives_that_lose_alike_the_longest_is_promoted() -> None:
    _, state = tuned()
    for candidate, share in zip(state.candidates, (0.895, 0.9, 0.91, 1.0, 1.0, 1.0), strict=True):
        candidate.loss = share * state.tagging.loss
    assert (state.champion, better_half_life(state)) == (5, 1)
    for candidate in state.candidates[:3]:
        candidate.loss = 0.985 * state.tagging.loss
    assert better_half_life(state) is None


def test_a_name_that_a_person_gave_is_unique_and_a_record_that_does_not_fit_changes_nothing() -> None:
    model, state = tuned()
    first, second = state.segments[:2]
    assert apply(state, model._spec, Renamed(state.version, first.id, "Mine"))
    assert (state.segments[0].name, state.segments[0].given) == ("Mine", True)
    assert not apply(state, model._spec, Renamed(state.version, second.id, "Mine"))
    assert not apply(state, model._spec, Renamed(state.version, 99, "Nobody"))
    assert not apply(state, model._spec, Dropped(state.version, b"", 99))


def test_a_few_heavy_customers_among_light_ones_are_no_risen_loss() -> None:
    x = mixture(60_000, CENTERS, 3)
    w = np.where(np.random.default_rng(3).random(len(x)) < 0.03, 1.0, 0.02)
    model = Segmenter(FEATURES, warm_up=1_000, n_segments=4, half_life="auto")
    model.learn_many(x, w)
    # After 2,000, 4,000 and then every 8,000 events; a rise would ask at once, and again after 500, 1,000, 2,000.
    assert 8 <= model._state.search.number <= 12


def test_the_guard_holds_centers_that_follow_together_as_well() -> None:
    together = Forgetting("weight", 150.0, 50.0)
    for max_gain, half_life in ((0.001, np.log(2.0) / 0.001), (0.1, 50.0), (None, 50.0)):
        spec = ModelSpec((ModelFeature("a"),), n_segments=1, speeds=(together,), warm_up=10, max_gain=max_gain)
        assert spec.common_half_lives[0] == pytest.approx(half_life)
        if max_gain is not None:
            assert 1.0 - 2.0 ** (-1.0 / spec.common_half_lives[0]) <= max_gain

"""A river clusterer in place of the built-in model: any object with `learn_one` and `predict_one`."""

from __future__ import annotations

import dataclasses
import pickle
import random
from typing import Any

import msgspec
import pytest

from streamseg.core.model.codec import pack, unpack
from streamseg.core.model.external import External, factory
from streamseg.core.model.state import ModelState
from streamseg.engine.events import ModelChanged
from streamseg.engine.log_records import decode_model_snapshot
from streamseg.engine.settings import JobSettings
from streamseg.errors import ConfigError, CorruptedError
from streamseg.transports.embedded import EmbeddedTransport
from tests.external import Bands, external_settings
from tests.harness import (
    Event,
    Recorder,
    crash_at,
    event,
    everything,
    loop,
    produce,
    restored,
    run_memory,
    run_through_crashes,
    settings_for,
    shoppers,
    tags,
    verified,
)

NAMES = ("age", "income")


class Labels(Bands):
    """Says what the income is."""

    def predict_one(self, x: dict[str, float]) -> Any:
        return {0.0: None, 1.0: -1, 2.0: 0.5, 3.0: "a"}.get(x["income"], int(x["income"]))


class Mute:
    """Cannot say a label."""

    def learn_one(self, x: dict[str, float]) -> None:
        pass


def with_profile(settings: JobSettings) -> JobSettings:
    """The same with a feature that only profiles have."""
    wide = settings_for(
        features=[{"name": "age"}, {"name": "income"}, {"name": "purchases"}, {"name": "tenure", "weight": 0.0}],
        model={"segments": "auto", "warm_up": 20, "refits": False},
    )
    return dataclasses.replace(wide, model=msgspec.structs.replace(wide.model, make=settings.model.make, stickiness=0.0))


def told(store: EmbeddedTransport) -> list[dict[str, Any]]:
    return [tag for tag in tags(store) if tag is not None]


def test_its_labels_are_the_segments_and_verify_derives_them_again() -> None:
    settings = external_settings(Bands)
    store, _ = run_memory(shoppers(1500), settings, batch_records=200)
    job = restored(store, settings)
    asked = [tag for tag in told(store) if tag["segment_id"] is not None]
    assert len(asked) > 1000
    assert {tag["segment_id"] for tag in asked} == set(job.state.ids) == {1, 2}
    assert verified(store, settings).tags == 1500 + sum(tag["source"] is None for tag in told(store))


def test_what_is_told_of_a_segment_is_that_of_its_rows() -> None:
    settings = external_settings(Bands)
    store, _ = run_memory(shoppers(3000), settings, batch_records=200)
    state = restored(store, settings).state
    ages = dict(zip(state.ids, state.tagging.centers.centers[0].tolist(), strict=True))
    # Groups of 20, 35 and 50, so the mean lies within the second.
    assert 19 < ages[1] < 35 < ages[2] < 52
    assert sum(state.members.values()) == 40
    for tag in told(store)[-50:]:
        assert tag["runner_up_segment_id"] in state.ids
        assert tag["runner_up_segment_id"] != tag["segment_id"]
        assert 0.0 <= tag["margin"] <= 1.0


def test_a_new_label_is_a_segment_from_its_first_tag_on() -> None:
    settings = external_settings(Bands)
    events: list[Event] = [*shoppers(1000), event("old", 1e6, age=200.0, income=1.0, purchases=1.0)]
    store, recorder = run_memory([*events, *shoppers(1000, seed=1)], settings, batch_records=200)
    state = restored(store, settings).state
    (found,) = [tag for tag in told(store) if tag["customer_id"] == "old"]
    assert found["segment_name"] == f"Segment {found['segment_id']}"
    assert found["segment_id"] in state.ids
    assert state.members[found["segment_id"]] == 1
    assert "segments_changed" in [change.what for change in recorder.of(ModelChanged)]
    report = verified(store, settings)
    assert report.decisions >= 2, "the start, and the new segment"


def test_rows_of_a_new_label_are_booked_on_no_other_segment() -> None:
    settings = with_profile(external_settings(Bands))
    first = [(key, value, at) for key, value, at in shoppers(1000)]
    store, _ = run_memory(first, settings, batch_records=200)
    before = restored(store, settings).state
    produce(store, [event(f"old{i}", 1e6 + i, age=2000.0, income=1.0, purchases=1.0, tenure=77.0) for i in range(5)])
    loop(store, settings, Recorder(), batch_records=200).run()
    after = restored(store, settings).state
    assert after.ids == [*before.ids, 9]
    k = len(before.ids)
    assert after.profile.weights[:, :k] == pytest.approx(before.profile.weights, rel=0.02)
    assert after.histogram[:k].sum() <= before.histogram.sum()
    assert after.tagging.centers.weights[:k].sum() <= before.tagging.centers.weights.sum()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
@pytest.mark.parametrize("call", [3, 6])
def test_a_crash_leaves_no_trace(point: str, call: int) -> None:
    settings = external_settings(Bands, snapshot_bytes=1)
    events = shoppers(1500)
    clean, _ = run_memory(events, settings, batch_records=100)
    crashed, _ = run_through_crashes(events, settings, [crash_at(point, call)], batch_records=100)
    assert everything(crashed, settings) == everything(clean, settings)
    assert verified(crashed, settings).batches > 0


def test_a_row_that_it_cannot_learn_is_left_out_everywhere() -> None:
    settings = external_settings(Bands)
    bad = [event(f"o{i}", 1e6 + i, age=66.0, income=1.0, purchases=1.0) for i in range(7)]
    store, _ = run_memory([*shoppers(500), *bad, *shoppers(500, seed=1)], settings, batch_records=100)
    external = restored(store, settings).state.external
    assert external is not None
    assert external.refused == 7
    assert verified(store, settings).tags >= 1007


@pytest.mark.parametrize("income", [0.0, 1.0, 2.0, 3.0])
def test_an_answer_that_is_no_label_stops_the_job_before_anything_is_written(income: float) -> None:
    settings = external_settings(Labels)
    store, _ = run_memory([event(f"c{i}", i, age=1.0, income=5.0 + i % 3, purchases=1.0) for i in range(100)], settings)
    before = everything(store, settings)
    produce(store, [event("x", 200.0, age=1.0, income=income, purchases=1.0)])
    with pytest.raises(ConfigError, match=r"model.factory"):
        loop(store, settings, Recorder()).run()
    assert everything(store, settings) == before


def test_too_many_labels_are_an_error_that_says_so() -> None:
    settings = external_settings(Labels)
    events = [event(f"c{i}", i, age=1.0, income=float(5 + i), purchases=1.0) for i in range(200)]
    with pytest.raises(ConfigError, match="more than 64 labels"):
        run_memory(events, settings, batch_records=40)


def test_a_digest_names_it_by_what_it_was_fed() -> None:
    spec = external_settings(Bands).model
    state = ModelState.empty(spec)
    again = unpack(pack(state), ModelState)
    assert isinstance(again.external, External)
    assert again.digest() == state.digest()


class Dice(Bands):
    """Answers by chance, without a seed."""

    def predict_one(self, x: dict[str, float]) -> int:
        return random.randrange(1000)


def test_a_model_that_answers_by_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"another answer.*seed"):
        factory(f"{__name__}:Dice", NAMES)


def test_rivers_models_are_taken_with_a_seed_and_refused_without() -> None:
    model = factory("tests.rivers:seeded", NAMES)()
    assert model.predict_one({"age": 1.0, "income": 1.0}) in (0, 1, 2)
    with pytest.raises(ValueError, match=r"another answer.*seed"):
        factory("tests.rivers:unseeded", NAMES)


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ()


sprung: list[bool] = []


def spring() -> None:
    sprung.append(True)


def test_nothing_is_unpickled_where_no_factory_is_set() -> None:
    settings = settings_for(model={"segments": 3, "warm_up": 20})
    store, _ = run_memory(shoppers(200), settings)
    replica = restored(store, settings).replica
    snapshot = replica.snapshot()
    snapshot.state.external = External(Trap())
    again = decode_model_snapshot(pack(snapshot))
    with pytest.raises(CorruptedError, match=r"a model of model\.factory"):
        replica.restore(again)
    assert not sprung
    pickle.loads(pickle.dumps(Trap()))
    assert sprung, "and the trap works"


ONE = Bands()


def the_same() -> Bands:
    return ONE


def no_model() -> int:
    return 3


def test_a_factory_makes_a_new_model_each_time() -> None:
    with pytest.raises(ValueError, match=r"the same model each time: make a new one within the function"):
        factory(f"{__name__}:the_same", NAMES)
    with pytest.raises(ValueError, match=r"gives a int, which is no clusterer: it has no learn_one and no predict_one"):
        factory(f"{__name__}:no_model", NAMES)


class LateDice(Bands):
    """Answers by chance once it has learned 500 rows, as river's STREAMKMeans does."""

    def learn_one(self, x: dict[str, float]) -> None:
        super().learn_one(x)
        self.rows = getattr(self, "rows", 0) + 1

    def predict_one(self, x: dict[str, float]) -> int:
        return random.randrange(1000) if self.rows >= 500 else 0


def test_chance_that_begins_late_is_found_out() -> None:
    with pytest.raises(ValueError, match=r"another answer.*seed"):
        factory(f"{__name__}:LateDice", NAMES)


@pytest.mark.parametrize("path", ["tests.unit.model.test_external:Nobody", "no.such:thing", f"{__name__}:Mute"])
def test_a_factory_that_does_not_work_is_told_at_once(path: str) -> None:
    with pytest.raises(ValueError, match=r"model\.factory"):
        factory(path, NAMES)


class Texts(Bands):
    """Labels that are no numbers."""

    def predict_one(self, x: dict[str, float]) -> Any:
        return "young"


def test_labels_that_are_no_integers_are_told_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"(?s)predict_one gives 'young'.*integers from 0"):
        factory(f"{__name__}:Texts", NAMES)

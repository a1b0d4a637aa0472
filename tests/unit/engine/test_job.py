"""What the job says and does, batch by batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamseg.core.model.initialization import start_from_centers
from streamseg.core.model.spec import STEP
from streamseg.engine.events import BatchCommitted, ModelChanged, SnapshotTaken, Started, Waiting
from streamseg.engine.ports import Log, Topic
from streamseg.engine.task import LEGAL, IllegalTransitionError, Task, TaskState
from streamseg.errors import ConfigError, CorruptedError
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import (
    BAD,
    FixedClock,
    Recorder,
    event,
    letters,
    loop,
    published,
    restored,
    run_memory,
    settings_for,
    shoppers,
    tags,
    verified,
)

DAY = 86_400.0
ONE: dict[str, Any] = {"features": [{"name": "x"}], "model": {"segments": 2, "warm_up": 2}}
CENTERS = {0: {"x": 0.0}, 1: {"x": 10.0}}


def job_with(**sections: Any) -> Any:
    return settings_for(**(ONE | sections))


def started(events: list[Any], batch: int = 1, **sections: Any) -> tuple[EmbeddedTransport, Recorder]:
    job = job_with(**sections)
    return run_memory(events, job, batch_records=batch, warm_start=start_from_centers(job.model, CENTERS))


def brief(transport: EmbeddedTransport) -> list[tuple[Any, ...] | None]:
    fields = ("customer_id", "segment_id", "previous_segment_id", "change", "reason")
    return [None if tag is None else tuple(tag[name] for name in fields) for tag in tags(transport)]


def test_new_unchanged_and_moved() -> None:
    store, _ = started([event("a", 0, x=1.0), event("a", 1, x=2.0), event("a", 2, x=9.0)])
    assert brief(store) == [
        ("a", 0, None, "new", "event"),
        ("a", 0, 0, "unchanged", "event"),
        ("a", 1, 0, "moved", "event"),
    ]
    last = tags(store)[-1]
    assert last is not None
    assert last["source"] == {"topic": "customer-events", "partition": 0, "offset": 2}
    assert last["entered_at"] == last["event_time"] == "2023-11-14T22:13:22.000000Z"
    assert last["segment_name"]
    assert last["drivers"][0]["feature"] == "x"
    assert 0 <= last["margin"] <= 1


def test_the_same_within_one_batch() -> None:
    store, _ = started([event("a", 0, x=1.0), event("a", 1, x=2.0), event("a", 2, x=9.0)], batch=10)
    assert [tag[3] for tag in brief(store) if tag is not None] == ["new", "unchanged", "moved"]


def test_a_tag_that_the_model_would_have_moved_anyway_says_so() -> None:
    low, high = [event(f"c{i}", i, x=0.0) for i in range(200)], [event(f"d{i}", 500 + i, x=6.0) for i in range(200)]
    store, _ = started([*low, event("a", 300, x=4.0), *high, event("a", 1e4, x=4.1)], 50)
    a = [tag for tag in tags(store) if tag is not None and tag["customer_id"] == "a"]
    assert [tag["reason"] for tag in a if tag["change"] == "moved"] == ["model_update"]


def test_warm_up_then_a_sweep_tags_everybody() -> None:
    store, recorder = run_memory(shoppers(300), settings_for(model={"segments": 3, "warm_up": 30}), batch_records=20)
    found = [tag for tag in tags(store) if tag is not None]
    warming = [tag for tag in found if tag["reason"] == "warming_up"]
    assert warming
    assert all(tag["segment_id"] is None and tag["change"] is None and tag["source"] is not None for tag in warming)
    swept = [tag for tag in found if tag["source"] is None]
    assert {tag["change"] for tag in swept} == {"new"}
    assert {tag["reason"] for tag in swept} == {"model_update"}
    assert swept[0]["entered_at"] == warming[-1]["event_time"]
    assert recorder.of(ModelChanged)[0].what == "started"
    assert sum(s.customers for s in recorder.of(BatchCommitted)[-1].segments) == 40


def test_a_warm_up_of_customers_who_do_not_differ_is_bounded_and_ends_when_they_do() -> None:
    job = job_with(model=ONE["model"] | {"warm_up": 20})
    alike = [event(f"c{i}", i, x=1.0) for i in range(500)]
    store, _ = run_memory(alike, job, batch_records=30)
    assert len(restored(store, job).state.warm_up.rows) == 200
    more = [event(f"d{i}", 500 + i, x=float(i % 2)) for i in range(50)]
    store, _ = run_memory([*alike, *more], job, batch_records=30)
    assert len(restored(store, job).state.segments) == 2
    assert verified(store, job).tags > 0


def test_a_bounded_input_ends_the_warm_up() -> None:
    store, _ = run_memory(shoppers(100), settings_for(model={"segments": 3}))
    assert {tag["reason"] for tag in tags(store) if tag is not None} == {"warming_up", "model_update"}
    assert restored(store, settings_for(model={"segments": 3})).state.ready


def test_too_few_customers_make_no_model_and_the_job_says_so() -> None:
    _, recorder = run_memory([event("a", 0, age=1.0, income=1.0, purchases=1.0)], settings_for(model={"segments": 3}))
    (waiting,) = recorder.of(Waiting)
    assert waiting.event == "no_model"
    assert "1 of 1 customers have all features, and at least 3" in waiting.message


def test_customers_who_lack_a_weighted_feature_wait_untagged_and_are_counted() -> None:
    store, recorder = started([event("a", 0, y=1.0), event("a", 1, x=1.0)])
    assert brief(store) == [("a", 0, None, "new", "event")]
    outcomes = [batch.outcomes for batch in recorder.of(BatchCommitted)]
    assert outcomes[0]["waiting"] == 1
    assert outcomes[1]["assigned"] == 1


def test_features_of_weight_zero_count_in_profiles_only() -> None:
    job = settings_for(features=[{"name": "age", "weight": 0.0}, {"name": "x"}], model=ONE["model"])
    events = [event("a", 0, x=0.0), event("b", 0, x=10.0, age=30.0), event("c", 0, x=0.1), event("d", 0, x=9.9, age=50.0)]
    store, _ = run_memory(events * 2, job, batch_records=4)
    ages = sorted((r["center"]["age"] for r in map(_json, published(store, Topic.CATALOG))), key=str)
    assert ages == [40.0, None]
    assert all(d["feature"] == "x" for tag in tags(store) if tag and tag["drivers"] for d in tag["drivers"])


def _json(value: bytes | None) -> Any:
    import msgspec

    return msgspec.json.decode(value or b"null")


def test_emit_changes_publishes_changes_only() -> None:
    events = [event("a", 0, x=1.0), event("a", 1, x=2.0), event("a", 2, x=9.0), event("a", 3, erase=True)]
    store, _ = started(events, 10, output={"emit": "changes"})
    assert [tag and tag[3] for tag in brief(store)] == ["new", "moved", None]
    quiet, _ = run_memory(shoppers(50), settings_for(model={"segments": 3}, output={"emit": "changes"}))
    assert {tag["change"] for tag in tags(quiet) if tag is not None} == {"new"}


def test_silent_customers_are_tagged_again_as_time_passes() -> None:
    features = [{"name": "x", "aggregate": "sum", "half_life": "1d"}]
    events = [event("a", 0, x=9.0), *[event("b", i * DAY, x=1.0) for i in range(8)]]
    store, _ = started(events, 1, features=features, model=ONE["model"] | {"retag_every": "1d"})
    a = [tag for tag in brief(store) if tag is not None and tag[0] == "a"]
    assert a == [("a", 1, None, "new", "event"), ("a", 0, 1, "moved", "time")]
    still, _ = started(events, 1, features=features, model=ONE["model"] | {"retag_every": "none"})
    assert [tag for tag in brief(still) if tag is not None and tag[0] == "a"] == [("a", 1, None, "new", "event")]


def test_bad_records_change_neither_model_nor_customers() -> None:
    job = settings_for(model={"segments": 3, "warm_up": 30})
    events = shoppers(200)
    clean, _ = run_memory(events, job, batch_records=10_000)
    dirty, recorder = run_memory([*BAD, *events, *BAD], job, batch_records=10_000)
    one, other = restored(clean, job), restored(dirty, job)
    assert one.state.tagging.centers.centers.tobytes() == other.state.tagging.centers.centers.tobytes()
    assert one.tasks[0].table.ids == other.tasks[0].table.ids
    assert len(letters(dirty)) == 2 * len(BAD)
    assert recorder.of(BatchCommitted)[0].outcomes["dead_letter"] == 2 * len(BAD)
    first = letters(dirty)[0]
    assert (first["value"], first["code"], first["offset"]) == ("{broken", "not_json", 0)


def test_an_erased_customer_is_gone_from_outputs_state_and_store(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    job = settings_for(model={"segments": 3, "warm_up": 20})
    secret = "erase-me-completely"
    store = EmbeddedTransport(path)
    events = [event(secret, 1.0, age=30.0, income=1.0, purchases=1.0), *shoppers(200), event(secret, 2e4, erase=True)]
    run_memory(events[:150], job, transport=store, batch_records=40)
    assert secret.encode() in _bytes_of(tmp_path)
    run_memory(events[150:], job, transport=store, batch_records=40)
    assert published(store, Topic.ASSIGNMENTS)[-1] is None
    assert secret not in restored(store, job).tasks[0].table.index
    store._db.execute('DELETE FROM "input-0"')
    store._db.execute('DELETE FROM "assignments-0"')
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert secret.encode() not in _bytes_of(tmp_path)
    assert verified(store, job).batches == 0
    store.close()


def _bytes_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


def test_erasure_during_the_warm_up_takes_the_row_along() -> None:
    job = settings_for(model={"segments": 3})
    events = [event("gone", 0, age=1e4, income=1e6, purchases=1e3), *shoppers(60), event("gone", 9e3, erase=True)]
    store, _ = run_memory(events, job, batch_records=20)
    assert restored(store, job).state.tagging.centers.centers[0].max() < 100


def test_snapshots_bound_the_logs_and_verify_prints_its_horizon() -> None:
    job = settings_for(20_000, model={"segments": 3, "warm_up": 30})
    store, recorder = run_memory(shoppers(4000, 100), job, batch_records=100)
    assert len(recorder.of(SnapshotTaken)) >= 3
    first = next(iter(store.read(Log.CUSTOMERS, 0, 0)))[0]
    assert first > 0
    assert next(iter(store.read(Log.MODEL, 0, 0)))[0] > 0
    report = verified(store, job)
    assert report.horizon[0] > 0
    assert report.records == 4000 - report.horizon[0]
    _, again = run_memory([], job, transport=store)
    assert again.of(Started)[0].customers == 100


def test_between_metric_renewals_an_idle_customer_is_never_tagged_again() -> None:
    job = settings_for(3_000, model={"segments": 3, "warm_up": 20})
    store = EmbeddedTransport(":memory:")
    run_memory(shoppers(300, 30), job, transport=store, batch_records=50)
    epoch = restored(store, job).state.metric.epoch
    before = len(tags(store))
    more = [(None, (value or b"").replace(b'"c', b'"n', 2), None) for _, value, _ in shoppers(200, 30, 4)]
    run_memory(more, job, transport=store, batch_records=7)
    assert restored(store, job).state.metric.epoch == epoch
    assert not [tag for tag in tags(store)[before:] if tag is not None and not tag["customer_id"].startswith("n")]


def test_other_settings_do_not_fit_a_state_and_the_message_names_them() -> None:
    store, _ = run_memory(shoppers(100), settings_for(model={"segments": 3}))
    other = settings_for(model={"segments": 4}, features=[{"name": "age"}, {"name": "income"}])
    with pytest.raises(ConfigError, match=r"other settings: .*features.purchases.*model.segments"):
        loop(store, other, Recorder()).run()


def test_another_number_of_partitions_is_refused() -> None:
    store, _ = run_memory(shoppers(100), settings_for(model={"segments": 3}))
    store.n_partitions = 2
    with pytest.raises(ConfigError, match="2 partitions, the state was written for 1"):
        loop(store, settings_for(model={"segments": 3}), Recorder()).run()


def test_a_log_that_disagrees_with_the_committed_offset_stops_the_job() -> None:
    job = settings_for(model={"segments": 3})
    store, _ = run_memory(shoppers(100), job, batch_records=30)
    store._db.execute('DELETE FROM "customers-0" WHERE offset = (SELECT max(offset) FROM "customers-0")')
    with pytest.raises(CorruptedError, match="customer log ends at commit"):
        restored(store, job)


def test_the_log_decides_where_the_committed_offset_has_expired() -> None:
    job = settings_for(model={"segments": 3})
    store, _ = run_memory(shoppers(100), job, batch_records=30)
    expected = restored(store, job).tasks[0].mark
    store._db.execute("DELETE FROM offsets")
    assert restored(store, job).tasks[0].mark == expected


@pytest.mark.parametrize("before", list(TaskState))
@pytest.mark.parametrize("after", list(TaskState))
def test_tasks_make_legal_transitions_only(before: TaskState, after: TaskState) -> None:
    task = Task(0, settings_for().layout)
    task.state = before
    if after in LEGAL[before]:
        task.transition(after)
        assert task.state is after
    else:
        with pytest.raises(IllegalTransitionError):
            task.transition(after)


def test_one_typo_in_a_live_stream_is_flagged_and_not_counted() -> None:
    job = settings_for(model={"segments": 3, "warm_up": 50})
    events = [*shoppers(2000, 100), event("typo", 2e5, age=35.0, income=1e9, purchases=1.0), *shoppers(50, 10, 5)]
    store, _ = run_memory(events, job, batch_records=500)
    (typo,) = [tag for tag in tags(store) if tag is not None and tag["customer_id"] == "typo"]
    assert typo["outlier"] is True
    state = restored(store, job).state
    assert state.population is not None
    assert (state.population.sums.outliers, int(state.population.sums.counts.sum())) == (1, 100)
    assert state.moments.variance()[1] < 1e8


@pytest.mark.parametrize("batch", [1, 100])
def test_a_customer_erased_in_the_warm_up_shapes_nothing_however_batches_are_cut(batch: int) -> None:
    job = settings_for(features=[{"name": "x"}, {"name": "y"}], model={"segments": 2, "warm_up": 50})
    events = [event("gone", 0, x=1.0, y=1.0), event("gone", 1, erase=True), event("gone", 2, x=5.0)]
    store, _ = run_memory([*events, event("a", 3, x=1.0, y=1.0)], job, batch_records=batch)
    assert len(restored(store, job).state.warm_up.rows) == 1


def test_an_event_after_a_long_silence_says_that_time_moved_the_customer() -> None:
    features = [{"name": "x", "aggregate": "sum", "half_life": "1d"}]
    others = [event("b", i * 1_200.0, x=0.1) for i in range(STEP - 2)]
    events = [event("a", 0, x=9.0), *others, event("c", 6e5, x=0.1), event("a", 6e5, x=0.01)]
    swept, itself = [("moved", "time"), ("unchanged", "event")], [("moved", "event")]
    for retag, after in (("1d", swept), ("none", itself)):
        store, _ = started(events, 161, features=features, model=ONE["model"] | {"retag_every": retag})
        found = [tag[3:] for tag in brief(store) if tag is not None and tag[0] == "a"]
        assert found == [("new", "event"), *after]


def test_one_segment_needs_no_feature_that_varies() -> None:
    job = settings_for(features=[{"name": "x"}], model={"segments": 1, "warm_up": 5})
    store, _ = run_memory([event(f"c{i}", i, x=1.0) for i in range(20)], job, batch_records=5)
    (last,) = tags(store)[-1:]
    assert last is not None
    assert (last["segment_id"], last["runner_up_segment_id"], last["margin"], last["drivers"]) == (0, None, None, None)


def test_rare_categories_start_where_they_are() -> None:
    job = settings_for(
        features=[{"name": "x"}, {"name": "plan", "one_hot": ["basic", "gold"]}],
        model={"segments": 1, "warm_up": 1000},
    )
    events = [event(f"c{i}", i, x=float(i % 9), plan="gold" if i % 60 == 0 else "basic") for i in range(1000)]
    store, _ = run_memory(events, job, batch_records=1000)
    assert restored(store, job).state.moments.mean[2] == pytest.approx(0.017)


def test_verify_takes_snapshots_at_the_version_at_which_they_were_taken() -> None:
    class Ticking(FixedClock):
        def now_us(self) -> int:
            self.now += 1
            return self.now

    job = settings_for(2_000, model={"segments": 3, "warm_up": 40})
    store, _ = run_memory(shoppers(110, 100), job, batch_records=50, clock=Ticking())
    assert verified(store, job).unread == []


def test_a_renewed_metric_is_a_new_epoch_and_every_stored_customer_is_looked_at_again() -> None:
    job = job_with()
    near, wide = (
        [event(f"a{i}", i, x=4.0 + i % 3) for i in range(300)],
        [event(f"b{i}", 400 + i, x=90.0 * (i % 2)) for i in range(1_900)],
    )
    start = start_from_centers(job.model, CENTERS)
    store, recorder = run_memory([*near, *wide], job, batch_records=100, warm_start=start)
    renewed = [e for e in recorder.of(ModelChanged) if e.what == "metric_renewed"]
    assert renewed
    state, task = restored(store, job).state, restored(store, job).tasks[0]
    assert state.metric.epoch > 2
    assert task.mark.sweep.model_epoch == state.epoch
    assert not task.mark.sweep.active
    assert set(task.table.column("epoch").tolist()) == {task.mark.sweep.epoch}
    swept = [tag for tag in tags(store) if tag is not None and tag["source"] is None]
    assert {tag["reason"] for tag in swept} == {"model_update"}
    assert {tag["change"] for tag in swept} == {"moved"}


def test_a_lapsed_big_spender_is_found_by_time() -> None:
    features = [
        {"name": "recency", "aggregate": "recency", "transform": "log1p"},
        {"name": "monetary", "field": "amount", "aggregate": "sum", "transform": "log1p"},
    ]
    job = settings_for(features=features, model={"segments": 4, "warm_up": 60, "stickiness": 0.0})
    day = 86_400.0
    events = [event(f"s{i % 30}", i * day / 15, amount=1.0 + i % 3) for i in range(1_500)]
    events += [event(f"b{i % 30}", i * day / 15, amount=400.0 + i % 30) for i in range(750)]
    events = sorted(events, key=lambda e: json.loads(e[1] or b"")["event_time"])
    store, _ = run_memory(events, job, batch_records=500)
    state, table = restored(store, job).state, restored(store, job).tasks[0].table
    lapsed = {int(table.column("segment")[table.index[f"b{i}"]]) for i in range(30)}
    there = {int(table.column("segment")[table.index[f"s{i}"]]) for i in range(30)}
    assert len(lapsed) == 1
    assert not lapsed & there
    moves = [tag for tag in tags(store) if tag is not None and tag["customer_id"] == "b7" and tag["change"] == "moved"]
    assert "time" in {tag["reason"] for tag in moves}
    assert moves[-1]["segment_id"] in lapsed
    (name,) = [segment.name for segment in state.segments if segment.id in lapsed]
    assert "lapsed" in name.lower()
    assert not verified(store, job).lost

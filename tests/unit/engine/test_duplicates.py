"""Events that were sent twice: `input.deduplicate`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.customers.seen import Seen, SeenChange
from streamseg.engine.events import BatchCommitted
from streamseg.engine.settings import JobSettings
from tests.events import doubled, with_ids
from tests.harness import (
    BAD,
    FADING,
    crash_at,
    event,
    restored,
    run_memory,
    run_through_crashes,
    settings_for,
    shoppers,
    tags,
    tags_without,
    verified,
)

HOUR_S = 3_600.0
MODEL = {"segments": 3, "warm_up": 300}


def deduplicating(window: str = "24h", **config: Any) -> JobSettings:
    return settings_for(**{"model": MODEL, "features": FADING, **config, "input": {"deduplicate": window}})


@pytest.mark.parametrize("features", [FADING, FADING[:1]])
def test_repeated_events_change_no_tag_over_restarts(features: list[dict[str, Any]]) -> None:
    settings, stream = deduplicating(features=features), with_ids(shoppers(6_000, customers=500))
    clean, _ = run_memory(stream, settings, batch_records=900)
    twice = doubled(stream)
    for at in range(len(twice) - 500, 0, -611):
        twice[at:at] = BAD
    points = ["before_commit", "after_commit"] * 4
    store, crashes = run_through_crashes(twice, settings, [crash_at(p, i + 2) for i, p in enumerate(points)], 900)
    assert crashes == len(points)
    assert tags_without(store, "assigned_at", "source") == tags_without(clean, "assigned_at", "source")
    report = verified(store, settings)
    assert not report.lost
    assert report.records == len(twice)


def test_repeated_events_are_counted() -> None:
    stream = with_ids(shoppers(3_000, customers=300))
    twice = doubled(stream)
    _, recorder = run_memory(twice, deduplicating())
    outcomes: Counter[str] = Counter()
    for batch in recorder.of(BatchCommitted):
        outcomes.update(batch.outcomes)
    assert outcomes["duplicate"] == len(twice) - len(stream) > 200
    assert sum(outcomes.values()) == len(twice)


def test_what_is_remembered_survives_snapshots_and_is_bounded_by_the_window() -> None:
    """A shopper every minute: in 2 hours there are 120 events, and a step of 500 lasts 8."""
    settings, stream = deduplicating("2h", snapshot_bytes=20_000), with_ids(shoppers(6_000, customers=300))
    store, _ = run_memory(stream, settings)
    job = restored(store, settings)
    assert len(job.tasks[0].snapshots) == 2
    assert 120 <= len(job.tasks[0].seen) <= 700
    assert not verified(store, settings).lost
    again, _ = run_memory([stream[-1]], settings, transport=store)
    assert tags_without(again, "assigned_at", "source") == tags_without(store, "assigned_at", "source")
    assert len(tags(again)) == len(tags(store))


@pytest.mark.parametrize(("hours", "counts"), [(1.0, 1), (23.9, 1), (24.1, 2), (-23.9, 1), (-24.1, 2)])
def test_an_id_that_comes_again_beyond_the_window_is_another_event(hours: float, counts: int) -> None:
    base = 48 * HOUR_S
    stream = [event("c1", base, age=1.0, event_id="x"), event("c1", base + hours * HOUR_S, age=2.0, event_id="x")]
    settings = deduplicating(
        features=[{"name": "age"}, {"name": "visits", "aggregate": "count"}], model={"max_ahead": "none"}
    )
    store, _ = run_memory(stream, settings)
    table = restored(store, settings).tasks[0].table
    assert table.column("visits.sum")[table.index["c1"]] == counts


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_id_is_none(name: str) -> None:
    settings = deduplicating(features=[{"name": "age"}, {"name": "visits", "aggregate": "count"}])
    store, _ = run_memory([event("c1", float(i), age=1.0, event_id=name) for i in range(3)], settings)
    table = restored(store, settings).tasks[0].table
    assert table.column("visits.sum")[table.index["c1"]] == 3


def test_an_id_belongs_to_its_customer_and_goes_with_them() -> None:
    stream = [
        event("c1", 0.0, age=1.0, event_id="x"),
        event("c2", 1.0, age=1.0, event_id="x"),
        event("c1", 2.0, age=1.0),
        event("c1", 3.0, age=1.0),
        event("c1", 4.0, erase=True, event_id="x"),
        event("c1", 5.0, age=1.0, event_id="x"),
        event("c1", 6.0, age=1.0, event_id="x"),
        event("c2", 7.0, age=1.0, event_id="x"),
    ]
    settings = deduplicating(features=[{"name": "age"}, {"name": "visits", "aggregate": "count"}])
    for batch_records in (1, 3, 500):
        store, _ = run_memory(stream, settings, batch_records=batch_records)
        task = restored(store, settings).tasks[0]
        counts = task.table.column("visits.sum")
        assert (counts[task.table.index["c1"]], counts[task.table.index["c2"]]) == (1, 1)
        assert (task.seen.count("c1"), task.seen.count("c2")) == (1, 1)
    gone, _ = run_memory([*stream, event("c1", 9.0, erase=True)], settings)
    assert restored(gone, settings).tasks[0].seen.count("c1") == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 50), st.booleans()), max_size=60),
    st.lists(st.integers(1, 60), max_size=5),
)
def test_repetitions_are_those_of_a_plain_dictionary_however_the_stream_is_cut(
    events: list[tuple[int, int, int, bool]], cuts: list[int]
) -> None:
    window = 20
    known: dict[tuple[int, int], int] = {}
    expected = []
    for customer, name, time, erases in events:
        if erases:
            known = {key: there for key, there in known.items() if key[0] != customer}
            expected.append(False)
            continue
        before = known.get((customer, name))
        expected.append(before is not None and abs(time - before) <= window)
        if not expected[-1]:
            known[customer, name] = time if before is None else max(time, before)
    seen, found = Seen(), []
    ends = sorted({*cuts, len(events)})
    for first, end in zip([0, *ends], ends, strict=False):
        part = events[first:end]
        repeated, change = seen.sift(
            [f"c{customer}" for customer, *_ in part],
            [f"e{name}" for _, name, *_ in part],
            np.array([time for *_, time, _ in part], dtype=np.int64),
            np.array([erases for *_, erases in part], dtype=np.bool_),
            window,
        )
        seen.apply(change, 0)
        restored_seen = Seen()
        for chunk in seen.chunks(2):
            restored_seen.apply(SeenChange(chunk, chunk.times[:0]), 0)
        seen = restored_seen
        found += repeated.tolist()
    assert found == expected
    assert len(seen) == len(known)

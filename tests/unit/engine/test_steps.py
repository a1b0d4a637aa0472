"""Batches end at steps, and a step is the same wherever it is cut."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from streamseg.core.model.codec import pack
from streamseg.core.model.spec import STEP
from streamseg.engine.log_records import BatchRecord, decode_model_record
from streamseg.engine.ports import Log, Records
from streamseg.engine.steps import cut
from streamseg.formats.frames import entries
from streamseg.transports.embedded import EmbeddedTransport
from tests import exploring
from tests.exploring import some
from tests.harness import (
    BAD,
    FADING,
    Event,
    Recorder,
    crash_at,
    event,
    jumping,
    loop,
    produce,
    restored,
    run_memory,
    run_through_crashes,
    settings_for,
    shoppers,
    tags,
    tags_without,
    verified,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "kept": {"model": {"warm_up": 300}},
    "fading": {"model": {"segments": 3, "warm_up": 300}, "features": FADING},
    "slow": {
        "model": {"segments": 3, "warm_up": 300},
        "features": [{"name": "recency", "aggregate": "recency"}, {"name": "age"}],
    },
}
_DAY_S = 86_400.0


def events_for(kind: str) -> list[Event]:
    stream = jumping(9_000, 5_000) if kind == "kept" else shoppers(9_000, customers=900)
    if kind == "slow":
        stream = slow(4_500)
    stream.insert(4_321, event("c7", 4_321.0, erase=True))
    return stream


def slow(n: int) -> list[Event]:
    """About 20 events a day, some out of order, of customers of whom each is silent for weeks now and then."""
    rng = np.random.default_rng(7)
    at = np.sort(rng.uniform(0, n / 20 * _DAY_S, n)) + rng.normal(0, 0.2 * _DAY_S, n)
    customers = rng.integers(0, 400, n)
    return [
        event(f"c{c}", float(t), age=20.0 + 15 * (c % 3) + rng.normal()) for c, t in zip(customers.tolist(), at, strict=True)
    ]


def test_a_slow_stream_is_swept_as_event_time_goes_on() -> None:
    """By steps of 500 records alone it would be once in 25 days."""
    settings = settings_for(**SETTINGS["slow"])
    store, _ = run_memory(slow(4_500), settings, batch_records=5_000)
    assert any(tag["reason"] == "time" for tag in tags(store) if tag)
    epochs = set()
    for entry in entries(store.read(Log.MODEL, 0, 0), "model"):
        record = decode_model_record(entry.payload)
        if isinstance(record, BatchRecord):
            epochs |= {part.sweep[2] for part in record.manifest.partitions if part.sweep is not None}
    assert len(epochs) > 50


@exploring.at_more_places
@pytest.mark.parametrize("kind", SETTINGS)
def test_the_tags_of_a_backlog_do_not_depend_on_the_size_of_batches(kind: str) -> None:
    settings, stream = settings_for(**SETTINGS[kind]), events_for(kind)
    expected = None
    for batch_records in (20_000, STEP, 350, 77) if exploring.everything else (20_000, 350):
        store, _ = run_memory(stream, settings, batch_records=batch_records)
        found = tags_without(store, "assigned_at")
        expected = expected or found
        assert found == expected
        assert not verified(store, settings).lost
    assert expected is not None
    changes = {json.loads(tag)["reason"] for tag in expected if tag != "null"}
    assert {"event", "model_update"} <= changes


@pytest.mark.parametrize("kind", some(SETTINGS))
def test_dead_letters_and_crashes_in_between_change_no_tag(kind: str) -> None:
    settings, stream = settings_for(**SETTINGS[kind]), events_for(kind)
    clean, _ = run_memory(stream, settings, batch_records=5_000)
    mixed = [*stream]
    for at in range(len(stream) - 500, 0, -611):
        mixed[at:at] = BAD
    points = ["before_commit", "after_commit"] * 4
    broken, crashes = run_through_crashes(mixed, settings, [crash_at(p, i + 2) for i, p in enumerate(points)], 900)
    assert crashes == len(points)
    # Where a record stands is another matter, as others stand before it.
    fields = ("assigned_at", "source")
    assert tags_without(broken, *fields) == tags_without(clean, *fields)
    assert not verified(broken, settings).lost


def test_batches_that_end_within_a_step_leave_the_model_as_it_is() -> None:
    settings = settings_for(model={"segments": 3, "warm_up": 300})
    transport = EmbeddedTransport(":memory:")
    produce(transport, shoppers(6_000, customers=600))
    running = loop(transport, settings, Recorder(), 90)
    versions: dict[int, int] = {}
    while not running.step():
        accepted = running.job.tasks[0].mark.accepted
        if accepted % STEP:
            assert versions.setdefault(accepted // STEP, running.job.state.version) == running.job.state.version
        again = restored(transport, settings)
        assert again.state.digest() == running.job.state.digest()
        assert pack(again.replica.open) == pack(running.job.replica.open)
    assert list(versions) == list(range(12))
    assert running.job.replica.open == []


def test_the_end_of_a_bounded_input_closes_the_open_step() -> None:
    settings = settings_for(model={"segments": 3, "warm_up": 300})
    store, _ = run_memory(shoppers(2_600, customers=600), settings, batch_records=90)
    records = [decode_model_record(entry.payload) for entry in entries(store.read(Log.MODEL, 0, 0), "model")]
    batches = [record for record in records if isinstance(record, BatchRecord)]
    assert [record.delta.closes for record in batches].count(False) > 2
    assert batches[-1].delta.closes
    job = restored(store, settings)
    assert job.state.customers == job.n_customers


def test_cut_takes_what_a_step_lacks_and_leaves_the_rest() -> None:
    records = {0: Records.of_values([b"a", b"b", b"c"], 5), 1: Records.of_values([b"d"], 0)}
    now, rest = cut(records, {0: 2, 1: 4})
    assert {p: list(each.values) for p, each in now.items()} == {0: [b"a", b"b"], 1: [b"d"]}
    assert {p: list(each.values) for p, each in rest.items()} == {0: [b"c"]}
    assert (now[0].next_offset, rest[0].next_offset) == (7, 8)

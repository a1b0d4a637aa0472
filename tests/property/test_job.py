"""Whole runs: any input, any polls, any crash point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.model.initialization import start_from_centers
from streamseg.engine.events import BatchCommitted
from streamseg.engine.ports import CommitPlan, CommitResult, Outcome, Topic
from streamseg.transports.embedded import EmbeddedTransport
from tests.exploring import explored
from tests.harness import (
    BAD,
    Event,
    Recorder,
    crash_at,
    event,
    everything,
    fingerprint,
    loop,
    produce,
    published,
    restored,
    run_memory,
    run_through_crashes,
    settings_for,
    shoppers,
    tags,
    verified,
)

FEATURES = [
    {"name": "age"},
    {"name": "spend", "field": "income", "aggregate": "sum", "half_life": "2h", "transform": "log1p"},
    {"name": "visits", "aggregate": "count", "half_life": "1h"},
    {"name": "purchases", "weight": 0.0},
]
SMALL: dict[str, Any] = {"model": {"segments": 3, "warm_up": 20, "retag_every": "40m"}, "features": FEATURES}
POINTS = ["before_write", "before_sync", "before_commit", "after_commit"]


def small(snapshot_bytes: int = 16_000_000, **model: Any) -> Any:
    return settings_for(snapshot_bytes, 20, **(SMALL | {"model": SMALL["model"] | model}))


@dataclass(frozen=True)
class Stream:
    """A recipe, which is what a failing test prints: shoppers, and what is put in between at which places."""

    n: int
    customers: int
    seed: int
    others: tuple[tuple[int, int, int], ...]

    def events(self) -> list[Event]:
        """With bad records, late events, erasures and customers who lack a feature."""
        events = shoppers(self.n, self.customers, self.seed)
        for at, kind, customer in self.others:
            events.insert(at % (len(events) + 1), _others(f"c{customer}")[kind])
        return events


def _others(customer: str) -> list[Event]:
    return [
        *BAD,
        event(customer, 0.0, age=99.0, income=5.0),
        event(customer, 9e4, erase=True),
        event("waits", 100.0, income=3.0),
        event(customer, 7e7, age=30.0, income=1.0),
    ]


def streams() -> st.SearchStrategy[Stream]:
    other = st.tuples(st.integers(0, 400), st.integers(0, len(_others("")) - 1), st.integers(0, 30))
    others = st.lists(other, max_size=8).map(tuple)
    return st.builds(Stream, st.integers(60, 400), st.integers(3, 60), st.integers(0, 999), others)


@given(streams(), st.integers(1, 200), st.data())
@explored(60)
def test_a_run_with_crashes_equals_the_uninterrupted_one(stream: Stream, batch: int, data: st.DataObject) -> None:
    events = stream.events()
    job = small(data.draw(st.sampled_from([2_000, 16_000_000])))
    plan = data.draw(st.lists(st.tuples(st.sampled_from(POINTS), st.integers(0, 12)), min_size=1, max_size=4))
    faults = [crash_at(point, call) for point, call in plan]
    whole, _ = run_through_crashes(events, job, [], batch)
    broken, _ = run_through_crashes(events, job, faults, batch)
    assert everything(broken, job) == everything(whole, job)


@given(streams(), st.integers(5, 120), st.booleans(), st.integers(0, 20))
@explored(40)
def test_an_unknown_outcome_is_decided_by_the_log(stream: Stream, batch: int, landed: bool, at: int) -> None:
    events = stream.events()

    class Unknown(EmbeddedTransport):
        """Says once that it does not know, having committed or not."""

        commits = 0

        def commit(self, plan: CommitPlan) -> CommitResult:
            self.commits += 1
            if self.commits != at + 1:
                return super().commit(plan)
            if landed:
                super().commit(plan)
            return CommitResult(Outcome.UNKNOWN)

    job = small()
    whole, recorder = run_memory(events, job, batch_records=batch)
    unsure = Unknown(":memory:")
    _, other = run_memory(events, job, batch_records=batch, transport=unsure)
    assert everything(unsure, job) == everything(whole, job)
    counted = [sum(sum(e.outcomes.values()) for e in r.of(BatchCommitted)) for r in (recorder, other)]
    assert counted[0] == counted[1] == len(events)


@given(streams(), st.lists(st.integers(1, 90), min_size=1, max_size=6), st.sampled_from([3_000, 16_000_000]), st.booleans())
@explored(60)
def test_verify_re_derives_every_tag_whatever_the_polls(
    stream: Stream, polls: list[int], snapshot_bytes: int, changes: bool
) -> None:
    """The same manifests give the same bytes: a second derivation, from manifests alone, finds no difference."""
    events = stream.events()

    class Uneven(EmbeddedTransport):
        turn = 0

        def poll(self, max_records: int, timeout_s: float) -> Any:
            self.turn += 1
            return super().poll(polls[self.turn % len(polls)], timeout_s)

    job = settings_for(snapshot_bytes, 20, **(SMALL | {"output": {"emit": "changes" if changes else "every"}}))
    store = Uneven(":memory:", n_partitions=2)
    run_memory(events, job, transport=store)
    report = verified(store, job)
    assert not report.unread
    assert report.records + sum(report.horizon.values()) == len(events)
    assert report.tags <= sum(len(published(store, Topic.ASSIGNMENTS, p)) for p in (0, 1))


@given(streams(), st.integers(3, 100))
@explored(40)
def test_state_comes_back_bit_for_bit_at_every_commit(stream: Stream, batch: int) -> None:
    events = stream.events()
    job = small(3_000)

    class Checking(EmbeddedTransport):
        checked = 0

        def poll(self, max_records: int, timeout_s: float) -> Any:
            live = current.job
            if live.replica.genesis is not None:
                again = restored(self, job)
                assert fingerprint(again) == fingerprint(live)
                assert {p: t.snapshots for p, t in again.tasks.items()} == {p: t.snapshots for p, t in live.tasks.items()}
                self.checked += 1
            return super().poll(max_records, timeout_s)

    store = Checking(":memory:")
    produce(store, events)
    current = loop(store, job, Recorder(), batch)
    current.run()
    assert store.checked > len(events) // batch


@given(st.integers(0, 99), st.sampled_from([250, 500, 1000, 1500]))
@explored(12)
def test_batch_size_does_not_change_what_is_learned_beyond_block_edges(seed: int, batch: int) -> None:
    job = settings_for(step=20, model={"segments": 3, "warm_up": 20})
    centers = {i: {"age": 20.0 + 15 * i, "income": 1000.0 * i, "purchases": i + 0.5} for i in range(3)}
    events = shoppers(3000, 200, seed)
    states = []
    for size in (3000, batch):
        store, _ = run_memory(events, job, batch_records=size, warm_start=start_from_centers(job.model, centers))
        states.append(restored(store, job).state)
    one, other = states
    assert one.tagging.centers.centers == pytest.approx(other.tagging.centers.centers, rel=1e-9)
    assert one.moments.variance() == pytest.approx(other.moments.variance(), rel=1e-9)
    assert one.metric.variance == pytest.approx(other.metric.variance, rel=1e-9)
    assert one.metric.epoch == other.metric.epoch


@given(streams(), st.integers(10, 100))
@explored(30)
def test_every_input_offset_is_accounted_for_once(stream: Stream, batch: int) -> None:
    events = stream.events()
    job = small()
    store, recorder = run_memory(events, job, batch_records=batch)
    offsets = [tag["source"]["offset"] for tag in tags(store) if tag is not None and tag["source"] is not None]
    assert len(offsets) == len(set(offsets))
    outcomes: dict[str, int] = {}
    for committed in recorder.of(BatchCommitted):
        for outcome, n in committed.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + n
    assert sum(outcomes.values()) == len(events)
    assert outcomes.get("assigned", 0) + outcomes.get("warming_up", 0) == len(offsets)
    assert outcomes.get("dead_letter", 0) == len(published(store, Topic.DEAD_LETTERS))


@given(streams(), st.integers(10, 100))
@explored(30)
def test_assigned_at_rises_strictly_even_when_the_clock_stands_still(stream: Stream, batch: int) -> None:
    events = stream.events()
    store, _ = run_memory(events, small(), batch_records=batch)
    times = [tag["assigned_at"] for tag in tags(store) if tag is not None]
    assert times == sorted(set(times))

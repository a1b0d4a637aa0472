"""Whole groups of workers over a store that does what Kafka does: nothing lost, nothing doubled, one model."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamseg.core.model.records import Postponed, Start
from streamseg.engine.log_records import DecisionRecord, decode_model_record
from streamseg.engine.ports import Log, Topic
from streamseg.engine.restore import restore
from streamseg.engine.task import Task
from streamseg.engine.verify import verified
from streamseg.formats.frames import entries
from tests.events import doubled, with_ids
from tests.exploring import explored
from tests.external import Bands, external_settings
from tests.groups import RATES, Group, stream
from tests.harness import Event, FixedClock, event, fingerprint, published, settings_for, shoppers
from tests.hostile import HostileBroker, HostileTransport, never

HAZARDS = {
    *RATES,
    "rebalance",
    "deposed owner",
    "fenced producer",
    "open transaction ended",
    "offset gap",
    "truncation",
    "transaction of the dead ended",
}
FIRED: Counter[str] = Counter()


def prove(group: Group) -> None:
    """Each event of each partition once, and every tag derived again."""
    broker: HostileBroker = group.broker
    reader = HostileTransport.reader(broker)
    ends = {p: there.next_offset for p, there in reader.committed().items() if there.next_offset}
    assert ends == {p: len(rows) for p, rows in enumerate(broker.inputs) if rows}
    report = verified(reader, group.settings, FixedClock())
    assert report.unread == []
    assert report.records == sum(end - report.horizon[p] for p, end in ends.items())
    for partition, rows in enumerate(broker.inputs):
        tagged = [
            tag["source"]["offset"]
            for tag in map(_json, published(reader, Topic.ASSIGNMENTS, partition))
            if tag is not None and tag["source"] is not None
        ]
        lettered = [letter["offset"] for letter in map(_json, published(reader, Topic.DEAD_LETTERS, partition))]
        twice = [offset for offset, n in Counter([*tagged, *lettered]).items() if n > 1]
        assert twice == []
        rest = set(range(len(rows))) - {*tagged, *lettered}
        assert all(b"erase" in (rows[offset][1] or b"") or b"waits" in (rows[offset][1] or b"") for offset in rest)
    one = restore(reader, group.settings, FixedClock(), range(broker.n_partitions))
    digests = {worker.job.replica.digest for worker in group.workers.values()}
    assert digests == {one.replica.digest}
    live = [table for worker in group.workers.values() for table in fingerprint(worker.job)[3]]
    assert sorted(live, key=lambda table: table[0]) == fingerprint(one)[3]


def _json(value: bytes | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(5, 60),
    st.sampled_from([2_000, 16_000_000]),
    st.booleans(),
)
@explored(60)
def test_a_group_under_faults_loses_and_doubles_nothing(
    seed: int, n_workers: int, n_partitions: int, batch: int, snapshot_bytes: int, forgetting: bool
) -> None:
    model = {"segments": 3, "warm_up": 20, "retag_every": "40m"}
    job = settings_for(snapshot_bytes, 20, model=model)
    group = Group(stream(400, 40, seed), job, n_partitions, batch)
    group.run(seed, RATES, n_workers, steps=80)
    FIRED.update(group.broker.fired)
    prove(group)


@given(st.integers(0, 10_000), st.integers(1, 3))
@explored(15)
def test_events_that_are_sent_twice_count_once_whatever_happens_to_the_workers(seed: int, n_workers: int) -> None:
    """Customers are those of the clean stream, over restarts and rebalances."""
    features = [{"name": "age"}, {"name": "income", "aggregate": "sum"}, {"name": "visits", "aggregate": "count"}]
    model = {"segments": 3, "warm_up": 20}
    job = settings_for(4_000, 20, model=model, features=features, input={"deduplicate": "7d"})
    clean, n_partitions = with_ids(shoppers(400, 40, seed)), 3
    group = Group(doubled(clean, 0.2, within=90), job, n_partitions, 10)
    group.run(seed, RATES, n_workers, steps=60)
    reader = HostileTransport.reader(group.broker)
    assert verified(reader, job, FixedClock()).unread == []
    one, other = restore(reader, job, FixedClock(), range(n_partitions)), Group(clean, job, n_partitions, 10)
    other.run(seed, {}, 1, steps=0)
    same = restore(HostileTransport.reader(other.broker), job, FixedClock(), range(n_partitions))
    assert {p: customers_of(task) for p, task in one.tasks.items()} == {p: customers_of(t) for p, t in same.tasks.items()}
    published_for = [len(published(reader, Topic.ASSIGNMENTS, p)) for p in range(n_partitions)]
    assert sum(published_for) < len(doubled(clean, 0.2, within=90))


def customers_of(task: Task) -> dict[str, tuple[float, ...]]:
    names = [spec.name for spec in task.table.specs if "." in spec.name]
    return {name: tuple(float(task.table.column(n)[row]) for n in names) for name, row in task.table.index.items()}


def test_partitions_without_events_do_not_keep_the_model_log() -> None:
    job = dataclasses.replace(settings_for(2_000, 10, model={"segments": 3, "warm_up": 20}), snapshot_versions=15)
    group = Group(stream(400, 40, 1), job, 1, 10)
    group.broker = HostileBroker(3)
    group.broker.inputs[1] = stream(400, 40, 1)
    group.run(1, RATES, 2, steps=40)
    assert group.broker.logs[f"{Log.MODEL}-0"].first > 15
    prove(group)


@given(st.integers(0, 10_000))
@example(6045)
@example(352)
@example(740)
@explored(25)
def test_a_group_is_verified_while_it_runs(seed: int) -> None:
    """Workers step between the batches that `verify` looks at, die, and their commits are seen late."""
    rng = random.Random(seed)
    group = Group(stream(300, 40, seed), settings_for(2_000, 20, model={"segments": 3, "warm_up": 20}), 2, 5)
    names = ["w0", "w1"]
    group.struggle(rng, RATES, names, steps=20)

    def work_on(done: int, total: int) -> None:
        assert 0 <= done <= total
        group.struggle(rng, RATES, names, steps=rng.randint(0, 2))

    for _ in range(5):
        committed = {p: there.next_offset for p, there in group.broker.offsets.items()}
        report = verified(HostileTransport.reader(group.broker), group.settings, FixedClock(), work_on)
        assert report.unread == []
        # A batch of two partitions of which one reaches back farther counts for its records, not as a batch.
        assert report.records >= sum(end - report.horizon[p] for p, end in committed.items())
    group.broker.draw = never
    group.finish(names)
    prove(group)


def moving(n: int, customers: int, seed: int) -> list[Event]:
    """Shoppers in four groups, whose incomes and ages change places half way, and a fifth group that comes later."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        c = int(rng.integers(customers))
        late = i > n // 2
        g = 4 if late and c % 10 == 0 else (c + late) % 4
        values = {"age": 20 + 20.0 * g + rng.normal(), "income": 1e4 * ((g + 2 * late) % 5) + 500 * rng.normal()}
        events.append(event(f"c{c}", i * 60.0, **values, purchases=g + rng.random()))
    return events


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_group_that_tunes_itself_is_verified_and_decides_alike(n_workers: int) -> None:
    """Half-lives, refits and new segments, under hazards: every replica comes to the same segments, and `verify` to all."""
    settings = settings_for(200_000, model={"warm_up": 200})
    group = Group(moving(12_000, 400, 1), settings, 2, 200)
    group.run(1, {name: rate / 3 for name, rate in RATES.items()}, n_workers, steps=90)
    prove(group)
    models = {name: loop.job.state for name, loop in group.workers.items() if loop.job.state.ready}
    newest = max(state.version for state in models.values())
    alike = {(state.digest(), tuple(state.ids)) for state in models.values() if state.version == newest}
    assert len(alike) == 1
    state = next(state for state in models.values() if state.version == newest)
    assert state.promotions > 0
    assert state.search.number > 0


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_group_with_a_model_of_somebody_else_s_is_verified_and_holds_the_same_one(n_workers: int) -> None:
    """What cannot be merged is fed with the same rows everywhere."""
    settings = external_settings(Bands, 2_000)
    group = Group(stream(1_500, 60, 1), settings, 2, 50)
    group.run(2, {name: rate / 2 for name, rate in RATES.items()}, n_workers, steps=60)
    prove(group)
    models = [loop.job.state for loop in group.workers.values() if loop.job.state.ready]
    newest = max(state.version for state in models)
    alike = [state for state in models if state.version == newest]
    assert len({state.digest() for state in alike}) == 1
    learned = {(state.external._estimator.n, state.external._estimator.total) for state in alike if state.external}
    assert len(learned) == 1


class Tens(Bands):
    """A label for each ten years of age."""

    def predict_one(self, x: dict[str, float]) -> int:
        self.questions += 1
        return int(min(40.0, max(0.0, x.get("age", 0.0) // 10)))


@pytest.mark.parametrize("seed", [0, 4])
def test_labels_that_appear_while_deltas_are_on_their_way_stop_nobody(seed: int) -> None:
    events = stream(1_500, 60, 1)
    for number, place in enumerate(range(300, 1_500, 40)):
        events.insert(place, event(f"new{place}", place * 60.0, age=70.0 + 10 * number, income=1000.0, purchases=1.0))
    group = Group(events, external_settings(Tens, 2_000), 2, 20)
    group.run(seed, {"late visibility": 0.5, "empty look": 0.2}, 2, steps=200)
    prove(group)
    states = [loop.job.state for loop in group.workers.values()]
    assert max(len(state.ids) for state in states) == 35


def test_every_hazard_fired() -> None:
    """A run of the test before prints how often each hazard struck."""
    for seed in range(12):
        group = Group(stream(300, 40, seed), settings_for(2_000, 20, model={"segments": 3, "warm_up": 20}), 3, 12)
        group.run(seed, RATES, 3, steps=150)
        prove(group)
        FIRED.update(group.broker.fired)
    print("hazards fired:", ", ".join(f"{name} {FIRED[name]}" for name in sorted(FIRED)))
    assert not [name for name in HAZARDS if not FIRED[name]]


def test_a_warm_up_of_two_workers_takes_hardly_more_events_than_one() -> None:
    job = settings_for(step=50, model={"segments": 3, "warm_up": 300})
    warming = {}
    for n_workers in (1, 2):
        group = Group(shoppers(6_000, 600, 3), job, 2, 400)
        group.run(7, {}, n_workers, steps=400)
        prove(group)
        reader = HostileTransport.reader(group.broker)
        found = [tag for p in range(2) for tag in map(_json, published(reader, Topic.ASSIGNMENTS, p)) if tag is not None]
        warming[n_workers] = sum(tag["reason"] == "warming_up" for tag in found)
    assert 300 <= warming[1] <= 600
    assert warming[2] <= 1.5 * warming[1]


def test_customers_who_do_not_differ_hold_no_worker_up_and_each_try_is_a_record() -> None:
    job = settings_for(step=20, model={"segments": 3, "warm_up": 30})
    alike = [event(f"c{i % 90}", float(i), age=30.0, income=1.0, purchases=2.0) for i in range(600)]
    group = Group([*alike, *shoppers(600, 90, 3)], job, 2, 40)
    group.run(3, {}, 2, steps=60)
    prove(group)
    reader = HostileTransport.reader(group.broker)
    records = [decode_model_record(entry.payload) for entry in entries(reader.read(Log.MODEL, 0, 0), "model")]
    decisions = [record.decision for record in records if isinstance(record, DecisionRecord)]
    kinds = [type(decision) for decision in decisions]
    assert Postponed in kinds
    assert Start in kinds
    assert Postponed not in kinds[kinds.index(Start) :]

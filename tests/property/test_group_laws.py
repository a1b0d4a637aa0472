"""Laws of commit and restore that hold at every moment of a group's life, each with the store arranged to break it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamseg.engine.ports import CommitPlan, CommitResult, Committed, Log, Topic
from streamseg.engine.restore import restore
from tests.groups import RATES, Group, stream
from tests.harness import FixedClock, fingerprint, published, settings_for, shoppers
from tests.hostile import HostileBroker, HostileTransport

JOB = settings_for(2_000, 20, model={"segments": 3, "warm_up": 20})


class Watched(HostileTransport):
    """Shows each plan, at the moment at which its commit begins."""

    def __init__(self, broker: HostileBroker, look: Any) -> None:
        super().__init__(broker, "w0")
        self._look = look

    def commit(self, plan: CommitPlan) -> CommitResult:
        self._look(plan)
        return super().commit(plan)


def test_nothing_of_a_plan_is_applied_before_it_is_committed() -> None:
    group = Group(stream(300, 40, 1), JOB, 2, 10)
    reader = HostileTransport.reader(group.broker)
    group.spawn("w0")
    worker, looks = group.workers["w0"], []

    def look(plan: CommitPlan) -> None:
        if worker.job.tasks:
            looks.append(fingerprint(worker.job) == fingerprint(restore(reader, JOB, FixedClock(), worker.job.tasks)))

    worker.transport = Watched(group.broker, look)
    group.finish(["w0"])
    assert len(looks) > 20
    assert all(looks)


def test_every_commit_is_fenced_by_offsets_of_what_it_touches() -> None:
    """All but the genesis, which comes before there is anything."""
    job = settings_for(2_000, 20, model={"segments": 3, "warm_up": 20, "retag_every": "40m"})
    group = Group(shoppers(400, 40, 1), job, 2, 10)
    group.spawn("w0")
    plans: list[CommitPlan] = []
    group.workers["w0"].transport = Watched(group.broker, plans.append)
    group.finish(["w0"])
    genesis, *others = plans
    assert not genesis.offsets
    for plan in others:
        touched = {p for log, p, _ in plan.internal if log is Log.CUSTOMERS} | plan.assignments.keys()
        assert plan.offsets
        assert touched <= plan.offsets.keys()
    assert {log for plan in others for log, _, _ in plan.internal} == {Log.CUSTOMERS, Log.MODEL, Log.MODEL_SNAPSHOTS}


class Hiding(HostileBroker):
    """Commits reach the partition of the model's snapshots only when all has settled."""

    def end(self, transaction: Any, state: str) -> None:
        super().end(transaction, state)
        if (name := f"{Log.MODEL_SNAPSHOTS}-0") in transaction.looks:
            transaction.looks[name] = 10_000


def test_what_stands_in_for_deleted_records_can_be_read() -> None:
    group = Group([], JOB, 1, 10)
    group.broker = Hiding(1)
    group.broker.inputs[0] = stream(400, 40, 1)
    reader = HostileTransport.reader(group.broker)
    group.finish(["w0"])
    restore(reader, JOB, FixedClock(), [0])
    assert len(group.workers["w0"].job.model_snapshots) > 3
    group.broker.settle()
    group.workers["w0"]._delete()
    assert group.broker.logs[f"{Log.MODEL}-0"].first > 0
    restore(reader, JOB, FixedClock(), [0])


def test_no_tag_of_an_older_model_follows_one_of_a_newer() -> None:
    """Looks at the model log come back empty, as a first fetch does in a millisecond, and partitions change hands."""
    for seed in range(6):
        group = Group(stream(300, 40, seed), JOB, 2, 5)
        group.run(seed, RATES | {"empty look": 0.5}, 3, steps=150)
        reader = HostileTransport.reader(group.broker)
        for partition in range(2):
            tags = published(reader, Topic.ASSIGNMENTS, partition)
            versions = [msgspec.json.decode(value)["model_version"] for value in tags if value is not None]
            assert versions == sorted(versions)


class Overtaken(HostileTransport):
    """Somebody works just after this reader was told what is committed."""

    group: Group | None = None

    def committed(self) -> dict[int, Committed]:
        found = super().committed()
        if self.group is not None:
            self.group.step("w0")
        return found


@pytest.mark.parametrize("after", [4, 9, 20])
def test_a_restore_goes_as_far_as_was_committed_when_it_asked_and_no_further(after: int) -> None:
    job = settings_for(step=20, model={"segments": 3, "warm_up": 20})
    group = Group(stream(300, 40, 1), job, 1, 10)
    reader = Overtaken(group.broker, "reader")
    reader.close()
    for _ in range(after):
        group.step("w0")
    wanted = fingerprint(restore(reader, job, FixedClock(), [0]))
    reader.group = group
    assert fingerprint(restore(reader, job, FixedClock(), [0])) == wanted
    reader.group = None
    assert fingerprint(restore(reader, job, FixedClock(), [0])) != wanted

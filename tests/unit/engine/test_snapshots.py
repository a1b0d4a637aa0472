"""Snapshots that do not work: a job goes on tagging, says so, and tries again when it is time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs

from streamseg.engine.events import BatchCommitted, SnapshotTaken
from streamseg.engine.log_records import decode_model_snapshot, encode_entry
from streamseg.engine.ports import CommitPlan, CommitResult, Log, Outcome
from streamseg.engine.restore import note_snapshots
from streamseg.errors import RetriableError
from streamseg.formats.frames import entries
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import Recorder, loop, produce, restored, run_memory, settings_for, shoppers, verified

# Batches of 100 write some 15,000 bytes to a partition's log.
JOB = settings_for(20_000, model={"segments": 3, "warm_up": 30})


def aborted() -> CommitResult:
    return CommitResult(Outcome.ABORTED)


def unknown() -> CommitResult:
    return CommitResult(Outcome.UNKNOWN)


def too_slow() -> CommitResult:
    raise RetriableError("it took longer than a transaction may")


class Failing(EmbeddedTransport):
    """Cannot write the customers of one partition whole until it is mended."""

    def __init__(self, fails: Callable[[], CommitResult]) -> None:
        super().__init__(":memory:", n_partitions=2)
        self.fails, self.mended, self.tries = fails, False, 0

    def commit(self, plan: CommitPlan) -> CommitResult:
        if not self.mended and [(log, partition) for log, partition, _ in plan.internal] == [(Log.CUSTOMERS, 0)]:
            self.tries += 1
            return self.fails()
        return super().commit(plan)


@pytest.mark.parametrize("fails", [aborted, unknown, too_slow])
def test_a_snapshot_that_does_not_work_is_told_and_holds_nothing_up(fails: Callable[[], CommitResult]) -> None:
    store = Failing(fails)
    _, recorder = run_memory(shoppers(4_000, 100), JOB, batch_records=100, transport=store)
    assert sum(there.next_offset for there in store.committed().values()) == 4_000
    due = [batch.snapshot_due for batch in recorder.of(BatchCommitted)]
    assert max(due) > 4
    assert 3 <= store.tries <= max(due), "as often as a snapshot's worth was written"
    assert {taken.partition for taken in recorder.of(SnapshotTaken)} == {1}, "the other partition does not suffer"
    store.mended = True
    again = Recorder()
    produce(store, shoppers(200, 100))
    loop(store, JOB, again, 100).run()
    assert {taken.partition for taken in again.of(SnapshotTaken)} == {0}
    assert again.of(BatchCommitted)[-1].snapshot_due < 1
    assert verified(store, JOB).unread == []


def test_of_two_model_snapshots_of_one_version_the_one_that_needs_less_of_the_log_counts() -> None:
    """Another worker wrote its own of the same version, that goes on where the log was truncated by then."""
    store = EmbeddedTransport(":memory:")
    run_memory(shoppers(6_000, 100), JOB, batch_records=100, transport=store)
    found = list(entries(store.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots"))
    snapshot = decode_model_snapshot(found[0].payload)
    first = next(offset for offset, _ in store.read(Log.MODEL, 0, 0))
    assert first == snapshot.next_offset > 2, "the log begins behind the oldest snapshot that is kept"
    other = structs.replace(snapshot, next_offset=snapshot.next_offset - 2)
    store.commit(CommitPlan(store.ownership(), {}, internal=[(Log.MODEL_SNAPSHOTS, 0, encode_entry(other))]))
    assert restored(store, JOB).state.version >= snapshot.version
    assert verified(store, JOB).records > 0
    produce(store, shoppers(3_000, 100, seed=2))
    loop(store, JOB, Recorder(), 100).run()
    assert verified(store, JOB).records > 0


def test_a_worker_deletes_no_snapshot_that_another_one_needs() -> None:
    """It looks at what is there before it deletes: of its own snapshots alone it might keep the wrong one."""
    store = EmbeddedTransport(":memory:")
    run_memory(shoppers(6_000, 100), JOB, batch_records=100, transport=store)
    job = restored(store, JOB)
    job.model_snapshots.clear()
    found = list(entries(store.read(Log.MODEL_SNAPSHOTS, 0, 0), "model snapshots"))
    assert note_snapshots(job, found) == {entry.first for entry in found}
    assert [kept.offset for kept in job.model_snapshots] == [entry.first for entry in found]

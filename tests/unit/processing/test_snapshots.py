"""Snapshots that do not work: a job goes on tagging, says so, and tries again when it is time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamseg.errors import RetriableError
from streamseg.processing.observe import BatchCommitted, SnapshotTaken
from streamseg.processing.transport import CommitPlan, CommitResult, Log, Outcome
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import Recorder, loop, produce, run_memory, settings_for, shoppers, verified

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

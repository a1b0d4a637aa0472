"""One suite for every transport: what the job relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamseg.errors import CorruptedError, FencedError
from streamseg.processing.transport import CommitPlan, Committed, Log, Outcome, Ownership, Tagged, Topic
from streamseg.records.outputs import DeadLetter
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import Crash, crash_at, published

PARTITIONS = 2
Open = Callable[[], EmbeddedTransport]


@pytest.fixture(params=["memory", "file"], name="transport")
def _transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedTransport]:
    path = ":memory:" if request.param == "memory" else tmp_path / "s.db"
    transport = EmbeddedTransport(path, n_partitions=PARTITIONS)
    yield transport
    transport.close()


def fill(transport: EmbeddedTransport, n: int = 5) -> None:
    for partition in range(PARTITIONS):
        transport.produce(partition, [(b"k%d" % i, b"v%d-%d" % (partition, i), 1000 + i) for i in range(n)])


def plan(
    transport: EmbeddedTransport, offset: int = 3, metadata: str = "m", ownership: Ownership | None = None
) -> CommitPlan:
    letter = DeadLetter(b"k", b"\xff", "not_json", "why", "customer-events", 0, 1, "")
    return CommitPlan(
        ownership or transport.ownership(),
        {0: Committed(offset, metadata)},
        {0: Tagged(["a", "b"], [b'{"n":1}', None]), 1: Tagged(["c"], [b'{"n":2}'])},
        [(b"7", b'{"segment":7}')],
        {0: [letter]},
        [(Log.CUSTOMERS, 0, [b"c1", b"c2"]), (Log.MODEL, 0, iter([b"m1"]))],
    )


def everything(transport: EmbeddedTransport) -> tuple[object, ...]:
    logs = [list(transport.read(log, p, 0)) for log in Log for p in range(PARTITIONS)]
    topics = [published(transport, topic, p, 0) for topic in Topic for p in range(PARTITIONS)]
    return logs, topics, transport.committed()


def test_poll_goes_on_where_it_stopped_and_keeps_offset_order(transport: EmbeddedTransport) -> None:
    fill(transport)
    first, second = transport.poll(3, 0.0), transport.poll(3, 0.0)
    assert {p: list(r.offsets) for p, r in first.partitions.items()} == {0: [0, 1, 2], 1: [0, 1, 2]}
    assert {p: list(r.values) for p, r in second.partitions.items()} == {0: [b"v0-3", b"v0-4"], 1: [b"v1-3", b"v1-4"]}
    assert first.partitions[0].keys[0] == b"k0"
    assert first.partitions[0].timestamps_ms[1] == 1001
    assert first.partitions[1].next_offset == 3
    assert first.ownership == transport.ownership()
    assert not second.ended
    assert transport.poll(3, 0.0).ended


def test_seek_says_where_the_next_poll_goes_on(transport: EmbeddedTransport) -> None:
    fill(transport)
    transport.poll(10, 0.0)
    transport.seek({0: 4})
    assert {p: list(r.offsets) for p, r in transport.poll(10, 0.0).partitions.items()} == {0: [4]}


def test_nothing_is_committed_before_the_first_commit(transport: EmbeddedTransport) -> None:
    assert transport.committed() == {}
    assert list(transport.read(Log.MODEL, 0, 0)) == []
    assert published(transport, Topic.ASSIGNMENTS, 0, 0) == []


def test_a_commit_publishes_all_of_the_plan(transport: EmbeddedTransport) -> None:
    result = transport.commit(plan(transport))
    assert result.outcome is Outcome.COMMITTED
    assert list(result.first_offsets) == [0, 0]
    assert transport.committed() == {0: Committed(3, "m")}
    assert list(transport.read(Log.CUSTOMERS, 0, 0)) == [(0, b"c1"), (1, b"c2")]
    assert list(transport.read(Log.MODEL, 0, 0)) == [(0, b"m1")]
    assert published(transport, Topic.ASSIGNMENTS, 0, 0) == [b'{"n":1}', None]
    assert published(transport, Topic.ASSIGNMENTS, 1, 0) == [b'{"n":2}']
    assert published(transport, Topic.CATALOG, 0, 0) == [b'{"segment":7}']
    assert len(published(transport, Topic.DEAD_LETTERS, 0, 0)) == 1
    again = transport.commit(plan(transport, 3, "again"))
    assert list(again.first_offsets) == [2, 1]
    assert transport.committed() == {0: Committed(3, "again")}
    assert published(transport, Topic.ASSIGNMENTS, 0, 3) == [None]


@pytest.mark.parametrize("point", ["before_write", "before_sync", "before_commit"])
def test_a_crash_before_the_commit_leaves_nothing(transport: EmbeddedTransport, point: str) -> None:
    transport.commit(plan(transport))
    before = everything(transport)
    transport._fault = crash_at(point, 0)
    with pytest.raises(Crash):
        transport.commit(plan(transport, 5))
    assert everything(transport) == before


def test_a_crash_after_the_commit_leaves_all(transport: EmbeddedTransport) -> None:
    transport._fault = crash_at("after_commit", 0)
    with pytest.raises(Crash):
        transport.commit(plan(transport))
    assert transport.committed() == {0: Committed(3, "m")}


def test_an_error_while_records_are_made_aborts(transport: EmbeddedTransport) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        transport.commit(CommitPlan(transport.ownership(), {}, internal=[(Log.MODEL, 0, broken())]))
    assert list(transport.read(Log.MODEL, 0, 0)) == []
    assert transport.commit(plan(transport)).outcome is Outcome.COMMITTED


def test_a_deposed_owner_is_fenced_and_publishes_nothing(transport: EmbeddedTransport) -> None:
    old = transport.ownership()
    before = everything(transport)
    transport._next_generation()
    with pytest.raises(FencedError):
        transport.commit(plan(transport, ownership=old))
    assert everything(transport) == before


def test_records_below_a_point_are_deleted_and_offsets_stay(transport: EmbeddedTransport) -> None:
    for _ in range(3):
        transport.commit(plan(transport))
    transport.delete_below(Log.CUSTOMERS, 0, 4)
    assert list(transport.read(Log.CUSTOMERS, 0, 0)) == [(4, b"c1"), (5, b"c2")]
    assert list(transport.read(Log.CUSTOMERS, 0, 5)) == [(5, b"c2")]
    with pytest.raises(CorruptedError, match="not retained"):
        list(transport.read(Log.CUSTOMERS, 0, 2))
    transport.delete_below(Log.CUSTOMERS, 0, 6)
    assert list(transport.commit(plan(transport)).first_offsets) == [6, 3]


def test_input_can_be_read_again(transport: EmbeddedTransport) -> None:
    fill(transport)
    transport.poll(10, 0.0)
    records = transport.input_records(1, 2, 4)
    assert records is not None
    assert list(records.values) == [b"v1-2", b"v1-3"]
    assert transport.input_records(0, 0, 1) is not None

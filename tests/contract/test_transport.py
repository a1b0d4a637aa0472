"""One suite for every transport: what the job relies on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamseg.engine.ports import CommitPlan, Committed, Log, Outcome, Ownership, Tagged, Topic
from streamseg.errors import CorruptedError, FencedError
from streamseg.formats.outputs import DeadLetter, dead_letter_line
from streamseg.transports.embedded import EmbeddedTransport
from streamseg.transports.kafka.client import (
    ConfigResource,
    ConfigResourceType,
    Connection,
    TopicPartition,
    admin,
    discarded,
)
from tests.broker import new_name
from tests.harness import Crash, crash_at, published
from tests.hostile import HostileBroker, HostileTransport
from tests.stores import PARTITIONS, KafkaStore, WritableStore, drained, join, placed


class EmbeddedStore(EmbeddedTransport):
    def depose(self) -> None:
        self._next_generation()


@pytest.fixture(params=["memory", "file", "hostile", "kafka"], name="transport")
def _transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WritableStore]:
    transport: WritableStore
    if request.param == "kafka":
        transport = KafkaStore.new(request.getfixturevalue("kafka"), PARTITIONS)
    elif request.param == "hostile":
        transport = HostileTransport(HostileBroker(PARTITIONS), "w0")
    else:
        path = ":memory:" if request.param == "memory" else tmp_path / "s.db"
        transport = EmbeddedStore(path, n_partitions=PARTITIONS)
    join(transport)
    yield transport
    transport.close()


def fill(transport: WritableStore, n: int = 5) -> None:
    for partition in range(PARTITIONS):
        transport.produce(partition, [(b"k%d" % i, b"v%d-%d" % (partition, i), 1000 + i) for i in range(n)])


def values(transport: WritableStore, log: Log, partition: int, start: int = 0, n: int = 1) -> list[bytes]:
    """Records of a log, once at least n are there."""
    return [record for _, record in placed(transport, log, partition, start, n)]


def plan(
    transport: WritableStore,
    offset: int = 3,
    metadata: str = "m",
    ownership: Ownership | None = None,
    before: tuple[int, int] = (0, 0),
) -> CommitPlan:
    letter = DeadLetter(b"k", b"\xff", "not_json", "why", "customer-events", 0, 1, "")
    return CommitPlan(
        ownership or transport.ownership(),
        {0: Committed(offset, metadata)},
        {0: Tagged(["a", "b"], [b'{"n":1}', None]), 1: Tagged(["c"], [b'{"n":2}'])},
        [(b"7", b'{"segment":7}')],
        {0: [letter]},
        [(Log.CUSTOMERS, 0, [b"c1", b"c2"]), (Log.MODEL, 0, iter([b"m1"]))],
        {0: before},
    )


def everything(transport: WritableStore) -> tuple[object, ...]:
    logs = [list(transport.read(log, p, 0)) for log in Log for p in range(PARTITIONS)]
    topics = [
        published(transport, topic, p) for topic in Topic for p in range(PARTITIONS if topic is not Topic.CATALOG else 1)
    ]
    return logs, topics, transport.committed()


def test_poll_goes_on_where_it_stopped_and_keeps_offset_order(transport: WritableStore) -> None:
    fill(transport)
    found = drained(transport, 3, 5)
    assert found == {p: [(i, b"v%d-%d" % (p, i)) for i in range(5)] for p in range(PARTITIONS)}


def test_polled_records_have_keys_and_timestamps(transport: WritableStore) -> None:
    fill(transport)
    for _ in range(100):
        polled = transport.poll(10, 0.1)
        if polled.partitions:
            break
    records = next(iter(polled.partitions.values()))
    assert list(records.keys)[:2] == [b"k0", b"k1"]
    assert list(records.timestamps_ms)[:2] == [1000, 1001]


def test_seek_says_where_the_next_poll_goes_on(transport: WritableStore) -> None:
    fill(transport)
    drained(transport, 10, 5)
    transport.seek({0: 4})
    for _ in range(100):
        polled = transport.poll(10, 0.1)
        if polled.partitions:
            break
    assert {p: list(r.offsets) for p, r in polled.partitions.items()} == {0: [4]}


def test_nothing_is_committed_before_the_first_commit(transport: WritableStore) -> None:
    assert transport.committed() == {}
    assert list(transport.read(Log.MODEL, 0, 0)) == []
    assert published(transport, Topic.ASSIGNMENTS) == []
    assert set(transport.begins()) == set(range(PARTITIONS))


def test_a_commit_publishes_all_of_the_plan(transport: WritableStore) -> None:
    result = transport.commit(plan(transport))
    assert result.outcome is Outcome.COMMITTED
    assert transport.committed() == {0: Committed(3, "m")}
    customers, model = placed(transport, Log.CUSTOMERS, 0, n=2), placed(transport, Log.MODEL, 0)
    assert [record for _, record in customers] == [b"c1", b"c2"]
    assert [record for _, record in model] == [b"m1"]
    assert list(result.first_offsets) == [customers[0][0], model[0][0]]
    assert published(transport, Topic.ASSIGNMENTS, 0) == [b'{"n":1}', None]
    assert published(transport, Topic.ASSIGNMENTS, 1) == [b'{"n":2}']
    assert published(transport, Topic.CATALOG) == [b'{"segment":7}']
    assert len(published(transport, Topic.DEAD_LETTERS, 0)) == 1
    again = transport.commit(plan(transport, 3, "again", before=(2, 1)))
    assert again.first_offsets[0] > customers[1][0]
    assert again.first_offsets[1] > model[0][0]
    assert transport.committed() == {0: Committed(3, "again")}
    assert values(transport, Log.CUSTOMERS, 0, n=4) == [b"c1", b"c2", b"c1", b"c2"]
    assert values(transport, Log.CUSTOMERS, 0, again.first_offsets[0], 2) == [b"c1", b"c2"]
    assert published(transport, Topic.ASSIGNMENTS, 0, 2) == [b'{"n":1}', None]


@pytest.mark.parametrize("point", ["before_write", "before_sync", "before_commit"])
def test_a_crash_before_the_commit_leaves_nothing(transport: WritableStore, point: str) -> None:
    transport.commit(plan(transport))
    values(transport, Log.CUSTOMERS, 0, n=2)
    before = everything(transport)
    transport._fault = crash_at(point, 0)
    with pytest.raises(Crash):
        transport.commit(plan(transport, 5))
    assert everything(transport) == before


def test_a_crash_after_the_commit_leaves_all(transport: WritableStore) -> None:
    transport._fault = crash_at("after_commit", 0)
    with pytest.raises(Crash):
        transport.commit(plan(transport))
    assert transport.committed() == {0: Committed(3, "m")}


def test_an_error_while_records_are_made_aborts(transport: WritableStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        transport.commit(CommitPlan(transport.ownership(), {}, internal=[(Log.MODEL, 0, broken())]))
    assert transport.commit(plan(transport)).outcome is Outcome.COMMITTED
    assert values(transport, Log.MODEL, 0) == [b"m1"]


def test_a_deposed_owner_publishes_nothing(transport: WritableStore) -> None:
    old = transport.ownership()
    before = everything(transport)
    transport.depose()
    try:
        outcome = transport.commit(plan(transport, ownership=old)).outcome
    except FencedError:
        outcome = Outcome.ABORTED
    assert outcome is Outcome.ABORTED
    assert everything(transport) == before


def test_records_below_a_point_are_deleted_and_offsets_stay(transport: WritableStore) -> None:
    firsts = [transport.commit(plan(transport)).first_offsets[0] for _ in range(3)]
    assert len(values(transport, Log.CUSTOMERS, 0, n=6)) == 6
    transport.delete_below(Log.CUSTOMERS, 0, firsts[2])
    assert placed(transport, Log.CUSTOMERS, 0, n=2) == [(firsts[2], b"c1"), (firsts[2] + 1, b"c2")]
    assert placed(transport, Log.CUSTOMERS, 0, firsts[2] + 1) == [(firsts[2] + 1, b"c2")]
    with pytest.raises(CorruptedError, match="not retained"):
        list(transport.read(Log.CUSTOMERS, 0, firsts[1]))
    transport.delete_below(Log.CUSTOMERS, 0, firsts[2] + 2)
    assert transport.commit(plan(transport)).first_offsets[0] >= firsts[2] + 2


def test_a_dead_letter_without_key_and_value_is_published(transport: WritableStore) -> None:
    """Of a record that has neither, or is too large to be repeated."""
    letter = DeadLetter(None, None, "missing_customer_id", "why", "customer-events", 0, 1, "")
    commit = CommitPlan(transport.ownership(), {0: Committed(1, "m")}, dead_letters={0: [letter]}, published={0: (0, 0)})
    assert transport.commit(commit).outcome is Outcome.COMMITTED
    assert published(transport, Topic.DEAD_LETTERS, 0) == [dead_letter_line(letter)]


def test_input_can_be_read_again(transport: WritableStore) -> None:
    fill(transport)
    drained(transport, 10, 5)
    records = transport.input_records(1, 2, 4)
    assert records is not None
    assert list(records.values) == [b"v1-2", b"v1-3"]
    assert transport.input_records(0, 0, 1) is not None


def test_lags_count_what_was_not_polled_where_that_is_known(transport: WritableStore) -> None:
    fill(transport, 7)
    found = drained(transport, 3, 3)
    lags = transport.lags()
    assert set(lags) <= set(range(PARTITIONS))
    assert all(0 <= behind <= 4 for behind in lags.values())
    drained(transport, 100, 7, found)
    assert all(behind == 0 for behind in transport.lags().values())


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_that_the_broker_compresses_are_read(kafka: str, codec: str) -> None:
    """Input by whatever its producers use, and logs by whatever somebody set for their topics."""
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    with discarded(admin(Connection(kafka))) as client:
        topics = (store.names.input, store.names.customers, store.names.model)
        client.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, {"compression.type": codec}) for name in topics]
        )
    fill(store, 200)
    store.commit(plan(store))
    assert drained(store, 1_000, 200) == {p: [(i, b"v%d-%d" % (p, i)) for i in range(200)] for p in range(PARTITIONS)}
    assert values(store, Log.CUSTOMERS, 0, n=2) == [b"c1", b"c2"]
    assert values(store, Log.MODEL, 0) == [b"m1"]
    store.close()


@pytest.mark.parametrize("committed", [True, False])
def test_the_markers_of_other_people_s_transactions_are_no_lag(kafka: str, committed: bool) -> None:
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    fill(store)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": new_name("shop")})
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.produce(store.names.input, b"in a transaction", partition=partition)
    assert producer.flush(30) == 0
    (producer.commit_transaction if committed else producer.abort_transaction)(30)
    found = drained(store, 10, 5 + committed)
    assert [offset for offset, _ in found[0]] == list(range(5 + committed))
    ends = {TopicPartition(store.names.input, partition): 7 for partition in range(PARTITIONS)}
    for _ in range(100):
        if all(store.member.consumer.highwater(place) == end for place, end in ends.items()) and not any(
            store.lags().values()
        ):
            break
        assert not store.poll(10, 0.1).partitions
    assert {place: store.member.consumer.highwater(place) for place in ends} == ends, "there are five, one, and a marker"
    assert store.lags() == {0: 0, 1: 0}
    store.close()


def test_the_end_of_a_log_is_behind_what_can_be_read(transport: WritableStore) -> None:
    assert transport.end(Log.CUSTOMERS, 0) == 0
    transport.commit(plan(transport))
    read = placed(transport, Log.CUSTOMERS, 0, n=2)
    assert len(read) == 2
    assert transport.end(Log.CUSTOMERS, 0) > read[-1][0]

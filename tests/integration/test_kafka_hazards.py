"""What kafka-python and the broker do to a naive user, pinned: should a hazard go away, its wrapping may too."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from streamseg.engine.ports import CommitPlan, Committed, Log, Outcome, Tagged, Topic
from streamseg.engine.restore import model_entries
from streamseg.errors import CorruptedError, RetriableError, TruncatedError
from streamseg.formats.frames import MAX_FRAME_BYTES, cut, frames
from streamseg.transports.kafka.client import (
    Connection,
    ConsumerGroupMetadata,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    discarded,
    kafka_errors,
    producer,
)
from streamseg.transports.kafka.reader import KafkaReader
from streamseg.transports.kafka.topics import prepare
from streamseg.transports.kafka.transactions import Transactions
from tests.broker import Broker, free_port, needed, new_name
from tests.harness import published
from tests.integration.proxy import Proxy
from tests.stores import KafkaStore, create_input, drained, join, names_of, placed
from tests.waiting import until

# They share one broker behind a proxy.
_one_broker = pytest.mark.xdist_group("hazards")
PARTITIONS = 2
_TAGS = Topic.ASSIGNMENTS
# After the delivery time-out of the records (8 s), before that of the transaction (10 s).
_HEAL_S = 8.6


@pytest.fixture(scope="module", name="own")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Proxy]]:
    needed()
    port = free_port()
    broker = Broker(tmp_path_factory.mktemp("proxied"), advertised=port)
    proxy = Proxy(port, broker.ports["PLAINTEXT"])
    broker.start()
    yield broker, proxy
    proxy.close()
    broker.stop()


@pytest.fixture(name="behind_proxy")
def _behind_proxy(own: tuple[Broker, Proxy]) -> Proxy:
    return own[1]


def plan(store: KafkaStore) -> CommitPlan:
    tags = Tagged(["a", "b"], [b'{"n":1}', b'{"n":2}'])
    return CommitPlan(
        store.ownership(), {0: Committed(3, "m")}, {0: tags}, internal=[(Log.MODEL, 0, [b"m1"])], published={0: (0, 0)}
    )


@_one_broker
def test_records_that_expire_in_a_transaction_are_never_committed_around(behind_proxy: Proxy) -> None:
    """Alone, flush, send_offsets and commit would all succeed, and the records would be gone."""
    names = names_of(new_name())
    create_input(behind_proxy.address, names, PARTITIONS)
    # Its place in the group outlasts the silence, so nothing else stops the commit.
    store = KafkaStore(Connection(behind_proxy.address, session_timeout_ms=30_000), names, "w0")
    join(store)

    def cut_between() -> Iterator[bytes]:
        yield b"arrives"
        store._transactions.ready().flush()
        behind_proxy.swallow(True)
        threading.Timer(_HEAL_S, behind_proxy.heal).start()
        yield b"expires"

    outcome = None
    try:
        cut = CommitPlan(store.ownership(), {0: Committed(3, "m")}, internal=[(Log.MODEL, 0, cut_between())])
        outcome = store.commit(cut).outcome
    except RetriableError:
        # Not even a new producer could be made yet.
        outcome = Outcome.UNKNOWN
    assert outcome is not Outcome.COMMITTED
    behind_proxy.heal()
    again = KafkaStore(store.connection, store.names, "w0")
    until(lambda: again.committed() == {}, "nothing is committed", 60)
    assert list(again.read(Log.MODEL, 0, 0)) == []
    join(again)
    assert again.commit(plan(again)).outcome is Outcome.COMMITTED
    assert [record for _, record in placed(again, Log.MODEL, 0)] == [b"m1"]
    again.close()
    store.close()


@_one_broker
@pytest.mark.parametrize("heard", [True, False])
def test_a_commit_without_an_answer_is_decided_by_what_is_committed(behind_proxy: Proxy, heard: bool) -> None:
    """The broker hears the request to commit or does not; the answer never comes, and the client would wait for ever."""
    names = names_of(new_name())
    create_input(behind_proxy.address, names, PARTITIONS)
    store = KafkaStore(Connection(behind_proxy.address, session_timeout_ms=30_000), names, "w0")
    join(store)

    def cut(point: str) -> None:
        if point == "before_commit":
            behind_proxy.swallow(True, answers_only=heard)
            threading.Timer(_HEAL_S, behind_proxy.heal).start()

    store._fault = cut
    began = time.monotonic()
    assert store.commit(plan(store)).outcome is Outcome.UNKNOWN
    assert time.monotonic() - began < 30
    store._fault = lambda point: None
    until(lambda: bool(store.committed()) == heard, "what was committed is known", 60)
    assert [record for _, record in placed(store, Log.MODEL, 0, n=int(heard))] == [b"m1"] * heard
    store.close()


def test_a_spent_producer_is_not_used_again(kafka: str) -> None:
    """After an error, records of the old transaction could still be in its memory, to be committed with the next one."""
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    spent = store._transactions.ready()

    def fail(point: str) -> None:
        if point == "before_sync":
            raise kafka_errors.KafkaError("drawn")

    store._fault = fail
    assert store.commit(plan(store)).outcome is Outcome.ABORTED
    store._fault = lambda point: None
    assert store._transactions.ready() is not spent
    assert store.commit(plan(store)).outcome is Outcome.COMMITTED
    assert published(store, _TAGS) == [b'{"n":1}', b'{"n":2}']
    store.close()


def test_generic_errors_after_fencing_abort_and_begin_anew(kafka: str) -> None:
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)

    def fence(point: str) -> None:
        if point == "before_sync":
            Transactions(store.connection, store._transactional_id).close()

    store._fault = fence
    assert store.commit(plan(store)).outcome is Outcome.ABORTED
    store._fault = lambda point: None
    assert store.committed() == {}
    assert store.commit(plan(store)).outcome is Outcome.COMMITTED
    store.close()


def test_committed_ends_the_transaction_of_an_owner_that_hangs_before_it_answers(kafka: str) -> None:
    """Asked otherwise it would answer at once, and the hanging owner could still commit behind our back."""
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    hanging = _open_transaction(kafka, store)
    assert store.committed() == {}
    with pytest.raises(kafka_errors.KafkaError):
        hanging.commit_transaction()
    assert store.committed() == {}
    hanging.close(timeout=1)
    store.close()


def _open_transaction(servers: str, store: KafkaStore) -> KafkaProducer:
    """Of another worker, with offsets in it: as a killed one leaves it behind."""
    client = producer(Connection(servers), f"{store.names.application}:w9")
    client.init_transactions()
    client.begin_transaction()
    client.send(store.names.assignments, b"x", b"a", partition=0).get(timeout=10)
    offsets = {TopicPartition(store.names.input, 0): OffsetAndMetadata(10, "zombie", -1)}
    client.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(group_id=store.names.application))
    return client


def test_what_a_killed_worker_left_open_is_seen_by_nobody_and_ended_by_its_next_start(kafka: str) -> None:
    names = names_of(new_name())
    create_input(kafka, names, PARTITIONS)
    first = KafkaStore(Connection(kafka), names, "w0")
    join(first)
    first._transactions.ready().begin_transaction()
    first._transactions.ready().send(names.assignments, b"x", b"a", partition=0).get(timeout=10)
    assert published(first, _TAGS) == []
    second = KafkaStore(Connection(kafka), names, "w0")
    join(second)
    assert second.commit(plan(second)).outcome is Outcome.COMMITTED
    until(lambda: published(second, _TAGS) == [b'{"n":1}', b'{"n":2}'], "readers are not held up", 5)
    second.close()
    first.close()


def test_a_commit_goes_with_the_membership_that_its_plan_was_polled_with(kafka: str) -> None:
    """Whatever this worker's membership is by now: the generation is the plan's."""
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    now = store.ownership()
    before = now.proof._replace(generation_id=now.generation - 1)  # type: ignore[attr-defined]
    stale = dataclasses.replace(plan(store), ownership=now._replace(proof=before))
    assert store.commit(stale).outcome is Outcome.ABORTED
    assert store.committed() == {}
    assert store.commit(plan(store)).outcome is Outcome.COMMITTED
    store.close()


def test_a_reader_behind_truncation_is_told(kafka: str) -> None:
    store = KafkaStore.new(kafka, PARTITIONS)
    join(store)
    for _ in range(3):
        store.commit(plan(store))
    found = placed(store, Log.MODEL, 0, n=3)
    store.delete_below(Log.MODEL, 0, found[2][0])
    with pytest.raises(TruncatedError, match="not retained"):
        list(store.read(Log.MODEL, 0, found[1][0]))
    store.close()


def test_large_entries_of_two_workers_stand_in_one_another_and_are_read_whole(kafka: str) -> None:
    """Each piece is a batch of its own, so what two transactions write to one log is mixed."""
    names = names_of(new_name())
    create_input(kafka, names, PARTITIONS)
    connection = Connection(kafka)
    with discarded(admin(connection)) as client:
        prepare(client, names, create=True)
    place = names.log(Log.MODEL, 0)
    payloads = [bytes([i]) * (2 * MAX_FRAME_BYTES + 5) for i in range(2)]
    with (
        discarded(producer(connection, f"{names.application}:a")) as a,
        discarded(producer(connection, f"{names.application}:b")) as b,
    ):
        for one in (a, b):
            one.init_transactions()
            one.begin_transaction()
        for pieces in zip(*(frames(cut(payload)) for payload in payloads), strict=True):
            for one, piece in zip((a, b), pieces, strict=True):
                one.send(place.topic, piece, partition=place.partition).get(timeout=10)
        a.commit_transaction()
        reader = KafkaReader(connection, names)
        try:
            # The other transaction is open, and holds up what was written since it began.
            assert list(model_entries(reader, 0)) == []
            b.commit_transaction()
            until(lambda: [entry.payload for entry in model_entries(reader, 0)] == payloads, "both can be read")
            first, second = model_entries(reader, 0)
            assert (first.first, first.end, second.first) == (0, 1, 1)
            (again,) = model_entries(reader, first.end)
            assert again.payload == payloads[1]
        finally:
            reader.close()


def damage(broker: Broker, topic: str, before: bytes, after: bytes) -> None:
    """What a disk does to a partition's log: the bytes change where they are, below whatever the broker appends."""
    (log,) = (broker.directory / "logs" / f"{topic}-0").glob("*.log")
    with log.open("r+b") as stored:
        found = stored.read()
        assert found.count(before) == 1
        stored.seek(found.index(before))
        stored.write(after)


@_one_broker
def test_a_damaged_batch_is_said_where_the_client_would_wait_for_ever(own: tuple[Broker, Proxy]) -> None:
    """Its second poll after one never ends."""
    broker, proxy = own
    with closing(KafkaStore.new(proxy.address, PARTITIONS)) as store:
        join(store)
        store.produce(0, [(b"k", b"somebody's event", 1000)])
        plan = CommitPlan(store.ownership(), {}, internal=[(Log.MODEL, 0, [b"somebody's model"])])
        assert store.commit(plan).outcome is Outcome.COMMITTED
        # A broker answers a commit before its markers stand in the logs.
        until(lambda: list(store.read(Log.MODEL, 0, 0)), "what was committed can be read")
        damage(broker, store.names.input, b"somebody's event", b"somebody's evelt")
        damage(broker, store.names.model, b"somebody's model", b"somebody's modem")
        with pytest.raises(CorruptedError, match=r"a batch of records is damaged: .* at offset 0"):
            drained(store, 10, 1)
        with pytest.raises(CorruptedError, match="damaged"):
            list(store.read(Log.MODEL, 0, 0))

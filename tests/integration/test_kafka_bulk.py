"""Records that are sent to a partition at once, as an outside reader finds them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

from streamseg.transports.kafka.bulk import send_all, varint
from streamseg.transports.kafka.client import Connection, KafkaAdminClient, discarded, kafka_errors, producer
from streamseg.transports.kafka.transactions import Transactions, arrived
from tests.broker import new_name

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


def topic_of(servers: str, **configs: str) -> str:
    name = new_name("bulk")
    client = KafkaAdminClient(bootstrap_servers=servers)
    client.create_topics({name: {"num_partitions": 2, "configs": configs}}, wait_for_metadata=True)
    client.close()
    return name


def records(n: int, seed: int = 0, size: int = 200) -> list[Record]:
    rng = random.Random(seed)

    def some(i: int) -> Record:
        key = None if rng.random() < 0.1 else rng.randbytes(rng.choice([0, 1, 63, 64, 200]))
        value = None if key is not None and rng.random() < 0.1 else rng.randbytes(rng.choice([0, 1, 70, size, 9_000]))
        return key, value, [("first", b"%d" % i), ("ü", b"")] if i % 7 == 0 else []

    return [some(i) for i in range(n)]


def send(client: Any, topic: str, partition: int, given: list[Record], futures: list[Any]) -> None:
    headers = {i: headers for i, (_, _, headers) in enumerate(given) if headers}
    send_all(client, topic, partition, [key for key, _, _ in given], [value for _, value, _ in given], headers, futures)


def there(servers: str, topic: str, partition: int) -> list[Any]:
    client = Consumer({"bootstrap.servers": servers, "group.id": "outside", "isolation.level": "read_committed"})
    place = Place(topic, partition, 0)
    client.assign([place])
    _, end = client.get_watermark_offsets(place, timeout=10)
    found: list[Any] = []
    while client.position([place])[0].offset < end and end:
        for message in client.consume(500, 0.1):
            assert message.error() is None
            found.append((message.key(), message.value(), message.headers() or []))
    client.close()
    return found


def test_they_are_there_in_their_order_with_whatever_they_have(kafka: str) -> None:
    topic, given = topic_of(kafka), records(3_000)
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 1, given, futures)
        arrived(client, futures)
    assert len(futures) < 30
    assert there(kafka, topic, 1) == given
    assert there(kafka, topic, 0) == []


def test_single_records_of_the_client_stand_between_them_in_order(kafka: str) -> None:
    topic, given = topic_of(kafka), records(50)
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 0, given[:20], futures)
        futures.append(client.send(topic, b"alone", b"key", partition=0))
        send(client, topic, 0, given[20:], futures)
        arrived(client, futures)
    assert there(kafka, topic, 0) == [*given[:20], (b"key", b"alone", []), *given[20:]]


def test_a_batch_that_the_broker_finds_too_large_is_split_and_each_part_is_waited_for(kafka: str) -> None:
    topic, given = topic_of(kafka, **{"max.message.bytes": "30000"}), records(400)
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 0, given, futures)
        before = len(futures)
        arrived(client, futures)
    assert len(futures) > before
    assert there(kafka, topic, 0) == given


def test_a_single_record_behind_a_batch_that_is_split_arrives_too(kafka: str) -> None:
    topic, given = topic_of(kafka, **{"max.message.bytes": "30000"}), records(200)
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 0, given, futures)
        futures.append(client.send(topic, b"alone", b"key", partition=0))
        arrived(client, futures)
    assert there(kafka, topic, 0) == [*given, (b"key", b"alone", [])]


def test_a_record_that_no_topic_takes_is_an_error(kafka: str) -> None:
    topic = topic_of(kafka, **{"max.message.bytes": "30000"})
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 0, [(b"a", b"small", []), (b"b", b"x" * 100_000, []), (b"c", b"small", [])], futures)
        with pytest.raises(kafka_errors.KafkaError):
            arrived(client, futures)


def test_a_record_larger_than_a_batch_goes_alone(kafka: str) -> None:
    topic, given = topic_of(kafka, **{"max.message.bytes": "4000000"}), records(3)
    given[1] = (b"large", b"x" * 950_000, [("why", b"size")])
    with discarded(producer(Connection(kafka), None)) as client:
        futures: list[Any] = []
        send(client, topic, 0, given, futures)
        arrived(client, futures)
    assert there(kafka, topic, 0) == given


def test_they_belong_to_the_transaction(kafka: str) -> None:
    topic, given = topic_of(kafka), records(500)
    transactions = Transactions(Connection(kafka), new_name("id"))
    try:

        def write(client: Any) -> list[Any]:
            futures: list[Any] = []
            send(client, topic, 0, given[:250], futures)
            return futures

        def fail(client: Any) -> list[Any]:
            write(client)
            raise KeyError("on purpose")

        with pytest.raises(KeyError):
            transactions.publish(fail, [])
        transactions.publish(write, [])
        transactions.publish(lambda client: [*write(client)], [])
    finally:
        transactions.close()
    assert there(kafka, topic, 0) == given[:250] * 2


def test_outside_of_a_transaction_a_transactional_client_refuses_them(kafka: str) -> None:
    topic = topic_of(kafka)
    transactions = Transactions(Connection(kafka), new_name("id"))
    try:
        with pytest.raises(kafka_errors.KafkaError):
            send(transactions.ready(), topic, 0, records(1), [])
    finally:
        transactions.close()


def test_lengths_of_any_size() -> None:
    assert [varint(n).hex() for n in (0, 1, 63, 64, 8191, 8192, 2**31)] == [
        "00", "02", "7e", "8001", "fe7f", "808001", "8080808010",
    ]  # fmt: skip

"""Stores for the contract suite and for groups of workers: each with what a test needs beside the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from confluent_kafka import Producer

from streamseg.processing.transport import Transport
from streamseg.transports.kafka.client import Connection, KafkaAdminClient
from streamseg.transports.kafka.topics import Names
from streamseg.transports.kafka.transport import KafkaTransport
from tests.broker import new_name

Message = tuple[bytes | None, bytes | None, int | None]


class WritableStore(Transport, Protocol):
    """A transport whose input can be written, and whose owner can be deposed."""

    _fault: Callable[[str], None]

    def produce(self, partition: int, records: Iterable[Message]) -> None: ...

    def depose(self) -> None:
        """Somebody else takes over: what this owner polled before must not be committed any more."""
        ...


class KafkaStore(KafkaTransport):
    """On a real broker, with topics of its own."""

    @classmethod
    def new(cls, servers: str, n_partitions: int) -> KafkaStore:
        names = names_of(new_name())
        create_input(servers, names, n_partitions)
        return cls(Connection(servers), names, "w0")

    def produce(self, partition: int, records: Iterable[Message]) -> None:
        produce(self.connection.bootstrap_servers, self.names.input, partition, records)

    def depose(self) -> None:
        """Another member joins, and the group goes on to its next generation."""
        other = KafkaStore(self.connection, self.names, "w1")
        try:
            before = self.member.ownership.generation
            for _ in range(100):
                other.poll(1, 0.05)
                with_me = self.member.consumer.poll(timeout_ms=50, max_records=1)
                del with_me
                if self.member.consumer.group_metadata().generation_id > before:
                    return
            raise AssertionError("no rebalance")
        finally:
            other.close()


def names_of(application: str) -> Names:
    return Names(application, f"{application}-in", f"{application}-out", f"{application}-segments", f"{application}-dead")


def create_input(servers: str, names: Names, n_partitions: int) -> None:
    client = KafkaAdminClient(bootstrap_servers=servers)
    client.create_topics(
        {names.input: {"num_partitions": n_partitions, "configs": {"retention.ms": "-1"}}}, wait_for_metadata=True
    )
    client.close()


def produce(servers: str, topic: str, partition: int, records: Iterable[Message]) -> None:
    """By another client, which also sends records without key and value."""
    failed: list[object] = []
    client = Producer({"bootstrap.servers": servers, "linger.ms": 20})

    def told(error: object, message: object) -> None:
        if error is not None:
            failed.append(error)

    for key, value, at_ms in records:
        client.produce(topic, value, key, partition, told, timestamp=at_ms or 0)
    assert client.flush(60) == 0
    assert failed == []

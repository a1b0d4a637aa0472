"""Stores for the contract suite and for groups of workers: each with what a test needs beside the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from confluent_kafka import Producer

from streamseg.engine.ports import Log, Polled, Transport
from streamseg.transports.kafka.client import Connection, KafkaAdminClient
from streamseg.transports.kafka.topics import Names
from streamseg.transports.kafka.transport import KafkaTransport
from tests.broker import new_name

PARTITIONS = 2
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


def join(transport: WritableStore) -> None:
    """Until it owns all partitions."""
    deadline = time.monotonic() + 60.0
    while len(transport.ownership().partitions) < PARTITIONS:
        assert time.monotonic() < deadline, transport.ownership()
        transport.poll(1, 0.1)
    transport.seek(dict.fromkeys(range(PARTITIONS), 0))


Found = dict[int, list[tuple[int, bytes | None]]]


def drained(transport: WritableStore, max_records: int, n: int, found: Found | None = None) -> Found:
    """Polls until there were n records of each partition, beside those that were found. Offsets with values."""
    found = {p: list((found or {}).get(p, ())) for p in range(PARTITIONS)}
    for _ in range(200):
        polled: Polled = transport.poll(max_records, 0.1)
        assert polled.ownership == transport.ownership()
        for partition, records in polled.partitions.items():
            assert len(records.offsets) <= max_records
            assert records.next_offset > records.offsets[-1]
            found[partition] += zip(records.offsets, records.values, strict=True)
        if all(len(records) >= n for records in found.values()):
            break
    return found


def placed(transport: WritableStore, log: Log, partition: int, start: int = 0, n: int = 1) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for _ in range(100):
        found = list(transport.read(log, partition, start, 0.1))
        if len(found) >= n:
            break
    return found

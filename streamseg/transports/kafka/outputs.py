"""What a commit publishes for others, as Kafka's records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from streamseg.processing.transport import CommitPlan
from streamseg.transports.kafka.client import KafkaProducer
from streamseg.transports.kafka.reader import EMPTY_HEADER, FIRST_HEADER, TRACE_HEADER
from streamseg.transports.kafka.topics import Names


class Message(NamedTuple):
    """A record that is to be sent."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None


def messages_of(names: Names, plan: CommitPlan) -> Iterator[Message]:
    """Dead letters and assignments; the first of each partition says how many were published before it."""
    for partition, letters in plan.dead_letters.items():
        first = plan.published.get(partition, (0, 0))[1]
        for i, letter in enumerate(letters):
            headers = letter.headers() + ([(FIRST_HEADER, b"%d" % first)] if i == 0 else [])
            value = letter.value
            if letter.key is None and value is None:
                value, headers = b"", [*headers, (EMPTY_HEADER, b"")]
            yield Message(names.dead_letters, partition, letter.key, value, headers)
    for partition, tags in plan.assignments.items():
        traced = {i: [(TRACE_HEADER, trace)] for i, trace in tags.traces.items()}
        traced[0] = [(FIRST_HEADER, b"%d" % plan.published.get(partition, (0, 0))[0]), *traced.get(0, [])]
        for i, (customer, tag) in enumerate(zip(tags.ids, tags.values, strict=True)):
            yield Message(names.assignments, partition, customer.encode(), tag, traced.get(i))


def send_outputs(client: KafkaProducer, names: Names, plan: CommitPlan) -> list[Any]:
    """Futures of all dead letters and assignments."""
    send = client.send
    return [
        send(topic, value, key, headers=headers, partition=partition)
        for topic, partition, key, value, headers in messages_of(names, plan)
    ]


def send_catalog(client: KafkaProducer, names: Names, catalog: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """Futures of all records of the catalog."""
    return [client.send(names.catalog, value, key, partition=0) for key, value in catalog]

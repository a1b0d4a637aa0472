"""What a commit publishes for others, as Kafka's records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streamseg.engine.ports import CommitPlan, Tagged, TagSchemas
from streamseg.transports.kafka.bulk import send_all
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


class Outputs(NamedTuple):
    """Records that are to be sent to one partition; headers by the number of a record."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Mapping[int, list[tuple[str, bytes]]]


def outputs_of(names: Names, plan: CommitPlan) -> Iterator[Outputs]:
    """Dead letters and assignments; the first of each partition says how many were published before it."""
    for partition, letters in plan.dead_letters.items():
        headers = {i: letter.headers() for i, letter in enumerate(letters)}
        if letters:
            headers[0] = [*headers[0], (FIRST_HEADER, b"%d" % plan.published.get(partition, (0, 0))[1])]
        values = [letter.value for letter in letters]
        for i, letter in enumerate(letters):
            if letter.key is None and letter.value is None:
                values[i], headers[i] = b"", [*headers[i], (EMPTY_HEADER, b"")]
        yield Outputs(names.dead_letters, partition, [letter.key for letter in letters], values, headers)
    for partition, tags in plan.assignments.items():
        traced = {i: [(TRACE_HEADER, trace)] for i, trace in tags.traces.items()}
        traced[0] = [(FIRST_HEADER, b"%d" % plan.published.get(partition, (0, 0))[0]), *traced.get(0, [])]
        yield Outputs(names.assignments, partition, *_written(tags, plan.tag_schemas), traced)


def _written(tags: Tagged, schemas: TagSchemas | None) -> tuple[Sequence[bytes], Sequence[bytes | None]]:
    """Keys and values."""
    if schemas is None:
        return [customer.encode() for customer in tags.ids], tags.values
    from streamseg.formats.avro_tags import keys_in_avro, tags_in_avro

    return keys_in_avro(tags.ids, schemas.key), tags_in_avro(tags.values, schemas.value)


def messages_of(names: Names, plan: CommitPlan) -> Iterator[Message]:
    """One by one."""
    for topic, partition, keys, values, headers in outputs_of(names, plan):
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            yield Message(topic, partition, key, value, headers.get(i))


def send_outputs(client: KafkaProducer, names: Names, plan: CommitPlan, futures: list[Any]) -> None:
    """All dead letters and assignments. `futures` gets what says that they arrived, as of `send_all`."""
    for topic, partition, keys, values, headers in outputs_of(names, plan):
        send_all(client, topic, partition, keys, values, headers, futures)


def send_catalog(client: KafkaProducer, names: Names, catalog: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """Futures of all records of the catalog."""
    return [client.send(names.catalog, value, key, partition=0) for key, value in catalog]

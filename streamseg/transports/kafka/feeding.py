"""Records into the input topic: a file's events, and dead letters once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import msgspec

from streamseg.engine.ports import Outcome
from streamseg.errors import ConfigError, RetriableError
from streamseg.transports.kafka.client import (
    Connection,
    ConsumerGroupMetadata,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    consumer,
    discard,
    discarded,
    producer,
    translated,
)
from streamseg.transports.kafka.reader import end_of, records_of, value_of_letter
from streamseg.transports.kafka.topics import Names, create_topic, partitions_of
from streamseg.transports.kafka.transactions import Positions, Transactions, arrived

_PORTION = 1_000
_CODE, _TIMESTAMP = "streamseg.error.code", "streamseg.error.timestamp"
_COMMITTED_MS = 10_000
# Brokers take 4,096 bytes of metadata with an offset.
_METADATA_BYTES = 4_000


class Feeder:
    """Sends events to a topic, keyed, in order; nothing counts as sent before the broker has it."""

    def __init__(self, connection: Connection, topic: str, n_partitions: int | None = None) -> None:
        """`n_partitions`: create the topic with so many where it is missing. Raises ConfigError where there is none."""
        with discarded(admin(connection)) as client:
            if n_partitions is not None and topic not in partitions_of(client, [topic]):
                create_topic(client, topic, n_partitions, {})
            if topic not in partitions_of(client, [topic]):
                raise ConfigError(
                    f"there is no topic {topic!r}",
                    where="input.topic",
                    hint="--partitions N creates it; or name another one",
                )
        self._client, self._topic = producer(connection, None), topic
        self._open: list[Any] = []

    def send(self, key: bytes | None, value: bytes) -> None:
        with translated(f"topic {self._topic}"):
            self._open.append(self._client.send(self._topic, value, key))

    def flush(self) -> None:
        """Raises StreamsegError where a record did not arrive."""
        with translated(f"topic {self._topic}"):
            arrived(self._client, self._open)
        self._open = []

    def close(self) -> None:
        discard(self._client)


def send_to(connection: Connection, topic: str, partition: int, key: bytes, value: bytes) -> int:
    """Send one record to a partition. Returns its offset. Raises StreamsegError."""
    client = producer(connection, None)
    try:
        with translated(f"topic {topic}"):
            sent = client.send(topic, value, key, partition=partition)
            arrived(client, [sent])
            return int(sent.value.offset)
    finally:
        discard(client)


class Letter(NamedTuple):
    """A dead letter where it stands, and where its record came from."""

    place: TopicPartition
    offset: int
    code: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None


class Redriven(msgspec.Struct):
    """How far a partition of dead letters was redriven: all before `upto`, but for those in the ranges [first, last]."""

    upto: int = 0
    skipped: list[tuple[int, int]] = []

    def waits(self, offset: int) -> bool:
        return offset >= self.upto or any(first <= offset <= last for first, last in self.skipped)

    def encode(self) -> str:
        """Metadata of a committed offset. Raises ConfigError where the broker would not take it."""
        text = msgspec.json.encode(self.skipped).decode()
        if len(text) > _METADATA_BYTES:
            raise ConfigError(
                "too many dead letters were left out here and there to remember them",
                where="redrive",
                hint="choose by --code, or redrive all",
            )
        return text


class Redrive:
    """Sends dead letters back to the partition that they came from, in their order, each once.

    Which were sent is a committed offset of a group of its own, with those that were left out as its metadata, moved in the
    transaction that sends: run again, or killed half way, it sends nothing twice and forgets nothing.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection, self._names = connection, names
        self._group = f"{names.application}-redrive"
        with discarded(admin(connection)) as client:
            n_partitions = partitions_of(client, [names.dead_letters]).get(names.dead_letters, 0)
        if not n_partitions:
            raise ConfigError(
                f"there is no topic {names.dead_letters!r}",
                where="output.dead_letter_topic",
                hint="has `streamseg run` begun? Or name another application (its streamseg.toml)",
            )
        self._places = [TopicPartition(names.dead_letters, partition) for partition in range(n_partitions)]

    def _redriven(self) -> dict[TopicPartition, Redriven]:
        with discarded(consumer(self._connection, group_id=self._group)) as reader, translated(f"group {self._group}"):
            found = {place: reader.committed(place, metadata=True, timeout_ms=_COMMITTED_MS) for place in self._places}
        return {
            place: Redriven()
            if there is None
            else Redriven(there.offset, msgspec.json.decode(there.metadata or "[]", type=list[tuple[int, int]]))
            for place, there in found.items()
        }

    def waiting(self) -> Iterator[Letter]:
        """Letters that were not redriven yet, by partition in order. Raises StreamsegError."""
        redriven = self._redriven()
        for place, letters in self._by_partition():
            yield from (letter for letter in letters if redriven[place].waits(letter.offset))

    def _by_partition(self) -> Iterator[tuple[TopicPartition, Iterator[Letter]]]:
        with discarded(consumer(self._connection)) as reader:
            for place in self._places:
                reader.assign([place])
                yield place, self._letters(reader, place)

    def _letters(self, reader: KafkaConsumer, place: TopicPartition) -> Iterator[Letter]:
        with translated(f"reading {place.topic}"):
            begin = reader.beginning_offsets([place])[place]
        for record in records_of(reader, place, begin, end_of(reader, place)):
            headers = dict(record.headers or ())
            code, at = headers.get(_CODE, b"").decode(), headers.get(_TIMESTAMP)
            partition = int(headers["streamseg.error.partition"])
            value = value_of_letter(record.value, headers)
            at_ms = int(at) if at else None
            yield Letter(place, record.offset, code, partition, record.key, value, at_ms)

    def send(self, chosen: Callable[[Letter], bool]) -> Counter[str]:
        """Send those that are chosen. Returns how many of each code. Raises StreamsegError."""
        sent: Counter[str] = Counter()
        with closing(Transactions(self._connection, self._group)) as transactions:
            redriven = self._redriven()
            for place, letters in self._by_partition():
                for portion, after in _portions(letters, redriven[place], chosen):
                    offsets = {portion[0].place: OffsetAndMetadata(after.upto, after.encode(), -1)}
                    # Nobody joins this group, so there is no member to fence: one transactional id does that.
                    positions: list[Positions] = [(offsets, ConsumerGroupMetadata(group_id=self._group))]
                    if transactions.publish(partial(self._write, portion), positions) is not Outcome.COMMITTED:
                        raise RetriableError(
                            "a transaction did not go through", where="redrive", hint="run it again: nothing is sent twice"
                        )
                    sent.update(one.code for one in portion)
        return sent

    def _write(self, letters: list[Letter], client: KafkaProducer) -> list[Any]:
        return [
            client.send(self._names.input, one.value, one.key, partition=one.partition, timestamp_ms=one.timestamp_ms)
            for one in letters
        ]


def _portions(
    letters: Iterator[Letter], before: Redriven, chosen: Callable[[Letter], bool]
) -> Iterator[tuple[list[Letter], Redriven]]:
    """Portions of a partition's chosen letters, each with what is redriven when it is sent. IN all."""
    skipped: list[tuple[int, int]] = []
    portion: list[Letter] = []
    together = False

    def after() -> Redriven:
        last = portion[-1].offset
        later = [(max(first, last + 1), end) for first, end in before.skipped if end > last]
        left = [(first, end) for first, end in skipped if end < last]
        return Redriven(max(before.upto, last + 1), [*left, *later])

    for letter in letters:
        if not before.waits(letter.offset):
            together = False
        elif chosen(letter):
            portion.append(letter)
            together = False
        elif together:
            skipped[-1] = (skipped[-1][0], letter.offset)
        else:
            skipped.append((letter.offset, letter.offset))
            together = True
        if len(portion) == _PORTION:
            yield portion, after()
            portion = []
    if portion:
        yield portion, after()

"""Records into the input topic: a file's events, and dead letters once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from streamseg.errors import ConfigError, RetriableError
from streamseg.processing.transport import Outcome
from streamseg.transports.kafka.client import (
    Connection,
    ConsumerGroupMetadata,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    consumer,
    discard,
    producer,
    translated,
)
from streamseg.transports.kafka.reader import end_of, records_of, value_of_letter
from streamseg.transports.kafka.topics import Names, create_topic, partitions_of
from streamseg.transports.kafka.transactions import Positions, Transactions, arrived

_PORTION = 1_000
_CODE = "streamseg.error.code"


class Feeder:
    """Sends events to a topic, keyed, in order; nothing counts as sent before the broker has it."""

    def __init__(self, connection: Connection, topic: str, n_partitions: int | None = None) -> None:
        """`n_partitions`: create the topic with so many where it is missing. Raises ConfigError where there is none."""
        client = admin(connection)
        try:
            if n_partitions is not None and topic not in partitions_of(client, [topic]):
                create_topic(client, topic, n_partitions, {})
            if topic not in partitions_of(client, [topic]):
                raise ConfigError(f"there is no topic {topic!r}", where="input.topic", hint="create it, or name another one")
        finally:
            client.close()
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


class Letter(NamedTuple):
    """A dead letter where it stands, and where its record came from."""

    place: TopicPartition
    offset: int
    code: str
    partition: int
    key: bytes | None
    value: bytes | None


class Redrive:
    """Sends dead letters back to the partition that they came from, in their order, each once.

    How far each code was redriven is a committed offset of a group of its own, moved in the transaction that sends: run
    again, or killed half way, it sends nothing twice.
    """

    def __init__(self, connection: Connection, names: Names, codes: Collection[str]) -> None:
        self._connection, self._names, self._codes = connection, names, codes
        self._positions: dict[tuple[str, int], int] = {}
        client = admin(connection)
        self._partitions = partitions_of(client, [names.dead_letters]).get(names.dead_letters, 0)
        client.close()
        if not self._partitions:
            raise ConfigError(f"there is no topic {names.dead_letters!r}", where="output.dead_letter_topic")

    def _group(self, code: str) -> str:
        return f"{self._names.application}-redrive-{code}"

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self._names.dead_letters, partition) for partition in range(self._partitions)]

    def _read_positions(self) -> None:
        for code in self._codes:
            reader = consumer(self._connection, group_id=self._group(code))
            with translated(f"group {self._group(code)}"):
                for place in self._places():
                    self._positions[code, place.partition] = reader.committed(place, timeout_ms=10_000) or 0
                reader.close()

    def waiting(self) -> Iterator[Letter]:
        """Letters of the codes that were not redriven yet, by partition in order. Raises StreamsegError."""
        self._read_positions()
        reader = consumer(self._connection)
        try:
            for place in self._places():
                reader.assign([place])
                with translated(f"reading {place.topic}"):
                    begin = reader.beginning_offsets([place])[place]
                for record in records_of(reader, place, begin, end_of(reader, place)):
                    headers = dict(record.headers or ())
                    code = headers.get(_CODE, b"").decode()
                    if code in self._codes and record.offset >= self._positions[code, place.partition]:
                        partition = int(headers["streamseg.error.partition"])
                        value = value_of_letter(record.value, headers)
                        yield Letter(place, record.offset, code, partition, record.key, value)
        finally:
            reader.close()

    def send(self, letters: Iterable[Letter]) -> Counter[str]:
        """Send them back. Returns how many of each code. Raises StreamsegError."""
        sent: Counter[str] = Counter()
        transactions = Transactions(self._connection, f"{self._names.application}-redrive")
        with closing(transactions):
            remaining = iter(letters)
            while portion := list(islice(remaining, _PORTION)):
                outcome = transactions.publish(partial(self._write, portion), self._positions_after(portion))
                if outcome is not Outcome.COMMITTED:
                    raise RetriableError(
                        "a transaction did not go through", where="redrive", hint="run it again: nothing is sent twice"
                    )
                sent.update(one.code for one in portion)
        return sent

    def _write(self, letters: list[Letter], client: KafkaProducer) -> list[Any]:
        return [client.send(self._names.input, one.value, one.key, partition=one.partition) for one in letters]

    def _positions_after(self, letters: list[Letter]) -> list[Positions]:
        """Nobody joins these groups, so there is no member to fence: one transactional id does that."""
        done: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        for one in letters:
            done.setdefault(one.code, {})[one.place] = OffsetAndMetadata(one.offset + 1, "", -1)
        return [(offsets, ConsumerGroupMetadata(group_id=self._group(code))) for code, offsets in done.items()]

"""A topic into the input, keyed by customer: each record once, in the order of its partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamseg.engine.ports import Outcome
from streamseg.errors import ConfigError, RetriableError
from streamseg.transports.kafka.client import (
    Connection,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    discard,
    translated,
)
from streamseg.transports.kafka.membership import Member
from streamseg.transports.kafka.topics import create_topic, partitions_of
from streamseg.transports.kafka.transactions import Transactions, transactional_id

_WAIT_S = 0.5
# A sibling that died in a transaction holds up the answer until the broker ends that.
_COMMITTED_MS = 30_000
KeysOf = Callable[[Sequence[bytes | None], Sequence[bytes | None]], Sequence[bytes | None]]


class Repartition:
    """Reads its share of `source` from where it stopped last, or from its beginning."""

    def __init__(
        self,
        connection: Connection,
        source: str,
        target: str,
        name: str,
        worker: str,
        keys_of: KeysOf,
        n_partitions: int | None = None,
    ) -> None:
        """`name`: of the group, in which each `worker` has an id of its own.

        `keys_of`: from records' keys and values, the keys that they get. `n_partitions`: create the target with so many
        where it is missing. Raises ConfigError, RetriableError.
        """
        if source == target:
            raise ConfigError(
                f"{source!r} is the input itself", hint="name the topic whose records are not keyed by customer"
            )
        self._connection, self._target, self._keys_of = connection, target, keys_of
        self._admin = admin(connection)
        try:
            if n_partitions is not None and target not in partitions_of(self._admin, [target]):
                create_topic(self._admin, target, n_partitions, {})
            missing = sorted({source, target} - partitions_of(self._admin, [source, target]).keys())
            if missing:
                raise ConfigError(
                    f"there is no topic {missing[0]!r}",
                    hint="the topic to read is yours to create; --partitions N creates the input that it is sent on to",
                )
            self._transactions = Transactions(connection, transactional_id(name, worker))
            self._member = Member(connection, source, name, transactional_id(name, worker))
        except BaseException:
            discard(self._admin)
            raise
        # Whether what was polled last was not sent on: it is to be polled again.
        self._astray = False

    def _go_on(self) -> None:
        """Where the last transaction ended."""
        consumer, places = self._member.consumer, list(self._member.consumer.assignment())
        with translated(f"reading {self._member.topic}"):
            begins = consumer.beginning_offsets(places)
            committed = {place: consumer.committed(place, timeout_ms=_COMMITTED_MS) for place in places}
        self._member.seek({p.partition: begins[p] if committed[p] is None else committed[p] for p in places})
        self._astray = False

    def step(self, max_records: int) -> int:
        """Sends on what is there, about so many. Returns how many.

        Raises RetriableError where they are to be sent again, FencedError where another process has this one's id,
        ConfigError.
        """
        astray, self._astray = self._astray, True
        before = self._member.ownership
        polled = self._member.poll(max_records, _WAIT_S)
        if astray or self._member.ownership != before:
            self._go_on()
            return 0
        self._member.look_at_group()
        rows = [record for records in polled.values() for record in records]
        if rows:
            self._send_on(rows, polled)
        self._astray = False
        return len(rows)

    def _send_on(self, rows: list[Any], polled: Mapping[int, list[Any]]) -> None:
        offsets = {
            TopicPartition(self._member.topic, p): OffsetAndMetadata(records[-1].offset + 1, "", -1)
            for p, records in polled.items()
        }
        positions = [(offsets, self._member.ownership.proof)]
        if self._transactions.publish(lambda client: self._write(client, rows), positions) is not Outcome.COMMITTED:
            self._member.check_place()
            raise RetriableError("a transaction did not go through", where=self._target)

    def at_end(self) -> bool:
        """Whether all that can be read was sent on: this worker's share, and those of others.

        One of them may have died: its share is assigned to this worker when its session expires. Raises RetriableError.
        """
        topic, consumer, mine = self._member.topic, self._member.consumer, set(self._member.ownership.partitions)
        n_partitions = self._member.n_partitions
        if not mine or n_partitions is None:
            return False
        with translated(f"reading {topic}"):
            ends = consumer.end_offsets([TopicPartition(topic, p) for p in range(n_partitions)])
            if any(consumer.position(place) < end for place, end in ends.items() if place.partition in mine):
                return False
            others = {place: end for place, end in ends.items() if place.partition not in mine}
            begins = consumer.beginning_offsets(list(others)) if others else {}
            sent = {place: consumer.committed(place, timeout_ms=_COMMITTED_MS) for place in others}
            return all((begins[place] if sent[place] is None else sent[place]) >= end for place, end in others.items())

    def _write(self, client: KafkaProducer, rows: list[Any]) -> list[Any]:
        keys = self._keys_of([row.key for row in rows], [row.value for row in rows])
        # The client cannot send a record without key and value; an empty one comes to the same end.
        values = [b"" if key is None and row.value is None else row.value for row, key in zip(rows, keys, strict=True)]
        return [
            client.send(self._target, value, key, headers=list(row.headers or ()), timestamp_ms=row.timestamp)
            for row, key, value in zip(rows, keys, values, strict=True)
        ]

    def close(self) -> None:
        self._transactions.close()
        self._member.leave()
        discard(self._admin)

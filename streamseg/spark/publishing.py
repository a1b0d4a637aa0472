"""Exactly once from Spark to Kafka: a transaction of a turn's records and of the input position that goes with them.

Spark may run a task twice, one after the other or both at a time. The later one takes the transactional id of its partition,
so that the other can no longer commit; then it looks whether the other had committed. What was committed stands, and nothing
is published twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamseg.engine.log_records import OffsetMetadata
from streamseg.engine.ports import Committed, Outcome
from streamseg.errors import ConfigError, RetriableError
from streamseg.transports.kafka.client import (
    Connection,
    ConsumerGroupMetadata,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    consumer,
    discarded,
    translated,
)
from streamseg.transports.kafka.transactions import Transactions, transactional_id

# Of a Python worker, which Spark uses for one task after the other: by transactional id, the client, and the sequence number
# that it committed last. It is of use until another process takes its id, which its next commit is told.
_open: dict[str, tuple[Transactions, int]] = {}


class Publisher:
    """Publishes for one place: a partition of the input, or the catalog."""

    def __init__(self, connection: Connection, application: str, name: str, place: TopicPartition) -> None:
        self._connection, self._application, self._place = connection, application, place
        self._id = transactional_id(application, f"spark-{name}")

    def begin(self, before: int) -> int:
        """Take the place of whoever published here before. Returns the number of the commit that was made last.

        `before`: the number that it has as far as is known. Raises RetriableError.
        """
        there = _open.pop(self._id, None)
        if there is not None and there[1] != before:
            there[0].close()
            there = None
        if there is None:
            # In this order: the one before can commit no more, then we look whether it had.
            there = Transactions(self._connection, self._id), -1
            there = there[0], self._committed()
        _open[self._id] = there
        return there[1]

    def publish(self, write: Callable[[KafkaProducer], list[Any]], position: Committed) -> None:
        """What `write` sends, and the position. Raises RetriableError where that is not known to be committed."""
        transactions, _ = _open.pop(self._id)
        where = OffsetAndMetadata(position.next_offset, position.metadata, -1)
        group = ConsumerGroupMetadata(self._application, -1, "", None)
        outcome = transactions.publish(write, [({self._place: where}, group)])
        if outcome is not Outcome.COMMITTED:
            transactions.close()
            raise RetriableError(f"a transaction is {outcome.value}", where=self._id, hint="Spark tries the task again")
        _open[self._id] = transactions, OffsetMetadata.decode(position.metadata).seq

    def skip(self, seq: int) -> None:
        """What was published before stands as commit `seq`."""
        _open[self._id] = _open[self._id][0], seq

    def refused(self, last: int, before: int) -> ConfigError:
        return ConfigError(
            f"commit {last} was made of {self._place.topic}-{self._place.partition}, the checkpoint is at {before}: another "
            f"query, or `streamseg run`, commits as application {self._application!r}, or the checkpoint is an older copy",
            where=f"group {self._application}",
            hint="one checkpoint for an application: stop the other, or name another application with outputs of its own",
        )

    def _committed(self) -> int:
        where = f"committed offset of {self._place.topic}-{self._place.partition}"
        with discarded(consumer(self._connection, group_id=self._application)) as client, translated(where):
            there = client.committed(self._place, metadata=True)
        return 0 if there is None else OffsetMetadata.decode(there.metadata or "").seq

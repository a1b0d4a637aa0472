"""A checkpoint as `verify`, `explain` and `segments` read it."""

from __future__ import annotations

from collections.abc import Iterator

from streamseg.engine.ports import Committed, Log, Published, Records, Topic, TopicIds
from streamseg.errors import ConfigError
from streamseg.spark.store import Head, Store
from streamseg.spark.topics import Topics
from streamseg.transports.kafka.client import Connection
from streamseg.transports.kafka.opening import Opening
from streamseg.transports.kafka.topics import Names


class StoredModel:
    """The logs of a checkpoint, and the ids that topics have now: what the model is restored from."""

    def __init__(self, store: Store, head: Head, ids: TopicIds) -> None:
        self.store, self.n_partitions, self._ids = store, head.n_partitions, ids

    def topic_ids(self) -> TopicIds:
        return self._ids

    def committed(self) -> dict[int, Committed]:
        return self.store.committed()

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        return self.store.read(log, partition, start, wait_s)

    def end(self, log: Log, partition: int) -> int:
        return self.store.end(log, partition)

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        return None

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        return None

    def streamed(self, topic: Topic, partition: int) -> bool:
        return False

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class CheckpointReader(StoredModel):
    """With the input and what was published, on Kafka."""

    def __init__(self, root: str, connection: Connection, names: Names, opening: Opening) -> None:
        """Raises ConfigError where nothing has begun there, RetriableError where Kafka is away."""
        store = Store(root)
        head = head_of(store)
        self.topics = Topics(connection, names, opening)
        super().__init__(store, head, self.topics.topic_ids())

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        return self.topics.input_records(partition, first, next_offset)

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        return self.topics.published(topic, partition, first)

    def settle(self) -> None:
        self.topics.settle()

    def close(self) -> None:
        self.topics.close()


def head_of(store: Store) -> Head:
    """The newest. Raises ConfigError where there is none."""
    head = store.head()
    if head is None:
        raise ConfigError(
            f"there is no state of segments in {store.root}",
            where="--checkpoint",
            hint="has `streamseg spark run`, or a query of `streamseg.spark.segment_stream`, begun with this --checkpoint?",
        )
    return head

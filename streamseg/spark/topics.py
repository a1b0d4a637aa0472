"""The topics that Spark's engine has: the input and what it publishes. Its logs are in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from streamseg.engine.ports import Topic, TopicIds
from streamseg.errors import ConfigError
from streamseg.transports.kafka.client import Connection, TopicPartition
from streamseg.transports.kafka.opening import NOTHING, Opening
from streamseg.transports.kafka.reader import KafkaReader
from streamseg.transports.kafka.topics import Names, create_topic, ids_of, partitions_of


class Topics(KafkaReader):
    """Input and outputs, as `KafkaReader` reads them."""

    def __init__(self, connection: Connection, names: Names, opening: Opening = NOTHING) -> None:
        super().__init__(connection, names, opening=opening)

    def _found_partitions(self) -> int:
        there = partitions_of(self._admin, [self.names.input])
        if self.names.input not in there:
            raise ConfigError(
                f"there is no topic {self.names.input!r}", where="input.topic", hint="create it, or name another"
            )
        return there[self.names.input]

    @property
    def _outputs(self) -> tuple[str, ...]:
        return (self.names.assignments, self.names.catalog, self.names.dead_letters)

    def prepare(self, *, create: bool, replication_factor: int) -> None:
        """Create the outputs that are missing. Raises ConfigError where that is not wanted, or where partitions lack."""
        wanted = {name: there for name, there in self.names.ours(self.n_partitions).items() if name in self._outputs}
        there = partitions_of(self._admin, list(wanted))
        missing = sorted(wanted.keys() - there.keys())
        if missing and not create:
            raise ConfigError(
                f"topics are missing: {', '.join(missing)}",
                hint="create them as docs/kafka.md says, or set kafka.create_topics = true",
            )
        for name, count in there.items():
            if count < wanted[name][0]:
                raise ConfigError(
                    f"topic {name} has {count} partitions, it needs {wanted[name][0]}: records go to the partition number "
                    "of their input",
                    hint="name another one (output.topic, output.catalog_topic, output.dead_letter_topic)",
                )
        for name in missing:
            create_topic(self._admin, name, *wanted[name], replication_factor)

    def topic_ids(self) -> TopicIds:
        return ids_of(self._admin, self.names, (self.names.input, *self._outputs))

    def _values(self, topic: Topic, place: TopicPartition, start: int) -> Iterator[tuple[bytes | None, int | None]]:
        """What Spark's own sink wrote twice is there once: a header says where a commit's first one stands."""
        at = expected = 0
        for value, header in super()._values(topic, place, start):
            at = at if header is None else header
            if topic is Topic.CATALOG or at >= expected:
                yield value, header
                expected = at + 1
            at += 1

    def _written(self) -> list[TopicPartition]:
        return [place for place in super()._written() if place.topic in self._outputs]

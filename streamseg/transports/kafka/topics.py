"""The topics of an application: created where they are ours, checked always.

The internal logs are what customers' state comes back from: nothing but streamseg may delete from them. The broker's
defaults would, after seven days.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import UUID

from streamseg.engine.ports import Log, Topic, TopicIds
from streamseg.errors import ConfigError
from streamseg.transports.kafka.client import (
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    OffsetSpec,
    TopicPartition,
    kafka_errors,
    translated,
)

_DAY_MS = 86_400_000
_INTERNAL = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "segment.ms": "3600000"}
_WANTED: dict[str, dict[str, str]] = {
    "customers": _INTERNAL,
    "model": _INTERNAL,
    # For a week each tag stays readable; then only the last one of each customer.
    Topic.ASSIGNMENTS: {"cleanup.policy": "compact", "min.compaction.lag.ms": str(7 * _DAY_MS)},
    Topic.CATALOG: {"cleanup.policy": "compact"},
    Topic.DEAD_LETTERS: {"cleanup.policy": "delete", "retention.ms": "-1"},
}
_MODEL_PARTITIONS = 2


class Names(NamedTuple):
    """Names of all topics of an application."""

    application: str
    input: str
    assignments: str
    catalog: str
    dead_letters: str

    @property
    def customers(self) -> str:
        return f"{self.application}-customers"

    @property
    def model(self) -> str:
        return f"{self.application}-model"

    def log(self, log: Log, partition: int) -> TopicPartition:
        """Where an internal log is. Snapshots of the model are partition 1 of its topic."""
        if log is Log.CUSTOMERS:
            return TopicPartition(self.customers, partition)
        return TopicPartition(self.model, 1 if log is Log.MODEL_SNAPSHOTS else 0)

    def topic(self, topic: Topic) -> str:
        names = {
            Topic.ASSIGNMENTS: self.assignments,
            Topic.CATALOG: self.catalog,
            Topic.DEAD_LETTERS: self.dead_letters,
        }
        return names[topic]

    def ours(self, n_partitions: int) -> dict[str, tuple[int, dict[str, str]]]:
        """Partitions and settings of the topics that are not the input."""
        return {
            self.customers: (n_partitions, _WANTED["customers"]),
            self.model: (_MODEL_PARTITIONS, _WANTED["model"]),
            self.assignments: (n_partitions, _WANTED[Topic.ASSIGNMENTS]),
            self.catalog: (1, _WANTED[Topic.CATALOG]),
            self.dead_letters: (n_partitions, _WANTED[Topic.DEAD_LETTERS]),
        }

    @property
    def all(self) -> tuple[str, ...]:
        return (self.input, self.customers, self.model, self.assignments, self.catalog, self.dead_letters)

    def written(self, n_partitions: int) -> list[TopicPartition]:
        """Every partition that a commit writes to."""
        return [
            TopicPartition(topic, partition)
            for topic, (count, _) in self.ours(n_partitions).items()
            for partition in range(count)
        ]


def partitions_of(admin: KafkaAdminClient, topics: list[str]) -> dict[str, int]:
    """Partition counts of the topics that are there."""
    with translated("describing topics"):
        described = admin.describe_topics(topics)
    return {
        topic["name"]: len(topic["partitions"]) for topic in described if not topic["error_code"] and topic["partitions"]
    }


def ids_of(admin: KafkaAdminClient, names: Names, topics: Collection[str]) -> TopicIds:
    """Ids (KIP-516) of some of an application's topics; brokers before Kafka 2.8 have none."""
    with translated("describing topics"):
        described = admin.describe_topics(list(topics))
    there = [topic for topic in described if not topic["error_code"] and topic.get("topic_id")]
    found = {topic["name"]: UUID(str(topic["topic_id"])) for topic in there}
    ids = {name: one.bytes for name, one in found.items() if one.int}
    return TopicIds(ids.get(names.input, b""), {name: one for name, one in sorted(ids.items()) if name != names.input})


def settings_of_topics(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    """All settings of topics, defaults included."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    with translated("reading the topics' settings"):
        found: dict[str, Any] = admin.describe_configs(resources, config_filter="all")
    by_topic: dict[str, Any] = next((v for k, v in found.items() if str(k).lower().endswith("topic")), {})
    return {topic: {key: str(value["value"]) for key, value in keys.items()} for topic, keys in by_topic.items()}


def prepare(admin: KafkaAdminClient, names: Names, *, create: bool, replication_factor: int = -1) -> int:
    """Create what is missing of ours, check all. Returns the input's number of partitions. Raises ConfigError."""
    there = partitions_of(admin, [names.input])
    if names.input not in there:
        raise ConfigError(
            f"there is no topic {names.input!r}",
            where="input.topic",
            hint="create it (streamseg never creates the input), or name another one",
        )
    n_partitions = there[names.input]
    ours = names.ours(n_partitions)
    missing = sorted(ours.keys() - partitions_of(admin, list(ours)).keys())
    if missing and not create:
        raise ConfigError(
            f"topics are missing: {', '.join(missing)}",
            hint="create them as docs/kafka.md says, or set kafka.create_topics = true",
        )
    # Before anything is made: a start that is refused leaves nothing behind.
    check(admin, names, n_partitions)
    for topic in missing:
        create_topic(admin, topic, *ours[topic], replication_factor)
    return n_partitions


def create_topic(
    admin: KafkaAdminClient, topic: str, n_partitions: int, settings: dict[str, str], replicas: int = -1
) -> None:
    """Raises ConfigError where that is not permitted."""
    wanted = {topic: {"num_partitions": n_partitions, "replication_factor": replicas, "configs": settings}}
    try:
        with translated(f"creating topic {topic}"):
            _ignoring_existing(admin, wanted)
    except ConfigError as error:
        raise ConfigError(
            error.message, where=error.where, hint="grant Create, or create the topics beforehand as docs/kafka.md says"
        ) from None


def _ignoring_existing(admin: KafkaAdminClient, wanted: dict[str, Any]) -> None:
    try:
        admin.create_topics(wanted, wait_for_metadata=True)
    except kafka_errors.TopicAlreadyExistsError:
        # Another worker was faster.
        return


def _check_outputs_are_ours(admin: KafkaAdminClient, names: Names, counts: dict[str, int]) -> None:
    """An application that has no state yet begins with empty outputs: others' would be mixed with its own."""
    outputs = [topic for topic in (names.assignments, names.catalog, names.dead_letters) if topic in counts]
    if names.model in counts or not outputs:
        return
    places = [TopicPartition(topic, p) for topic in outputs for p in range(counts[topic])]
    with translated("reading the ends of topics"):
        ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    used = sorted({place.topic for place, there in ends.items() if there.offset > 0})
    if used and names.model not in partitions_of(admin, [names.model]):
        raise ConfigError(
            f"application {names.application!r} is new, but {', '.join(used)} holds records already, of another application",
            hint="name other topics for it (output.topic, output.catalog_topic, output.dead_letter_topic)",
        )


def check(admin: KafkaAdminClient, names: Names, n_partitions: int) -> None:
    """Raises ConfigError where a topic's partitions or settings would lose data."""
    ours = names.ours(n_partitions)
    counts = partitions_of(admin, list(ours))
    _check_outputs_are_ours(admin, names, counts)
    for topic, (wanted, _) in ours.items():
        if topic in (names.assignments, names.catalog, names.dead_letters):
            if counts.get(topic, wanted) < wanted:
                raise ConfigError(
                    f"topic {topic} has {counts[topic]} partitions, it needs {wanted}: records go to the partition "
                    "number of their input",
                    hint="name another one (output.topic, output.catalog_topic, output.dead_letter_topic)",
                )
        elif counts.get(topic, wanted) != wanted:
            raise ConfigError(
                f"topic {topic} has {counts[topic]} partitions, it needs {wanted}: partitions were added to the input, and "
                "its customers are now on other partitions than their state",
                hint="start a new application (another name) from the input's beginning; no state was lost",
            )
    there = [topic for topic in (names.customers, names.model, names.dead_letters) if topic in counts]
    settings = settings_of_topics(admin, there) if there else {}
    letters = settings.pop(names.dead_letters, {"cleanup.policy": "delete"})
    if "compact" in letters["cleanup.policy"]:
        raise ConfigError(
            f"topic {names.dead_letters} is compacted: of a customer's dead letters only the last would stay",
            hint="set cleanup.policy=delete",
        )
    for topic, keys in settings.items():
        if "compact" in keys["cleanup.policy"] or keys["retention.ms"] != "-1" or keys["retention.bytes"] != "-1":
            raise ConfigError(
                f"topic {topic} would lose state: cleanup.policy={keys['cleanup.policy']}, "
                f"retention.ms={keys['retention.ms']}, retention.bytes={keys['retention.bytes']}",
                hint="set cleanup.policy=delete, retention.ms=-1 and retention.bytes=-1",
            )

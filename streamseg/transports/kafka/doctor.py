"""Is everything there that the job needs? One finding a line, each with what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from streamseg.errors import RetriableError, StreamsegError
from streamseg.transports.finding import Finding, Sample, each, in_short, tried
from streamseg.transports.kafka.client import (
    TRANSACTION_TIMEOUT_MS,
    Connection,
    KafkaAdminClient,
    OffsetSpec,
    TopicPartition,
    admin,
    consumer,
    discarded,
    producer,
    translated,
)
from streamseg.transports.kafka.group import group_of
from streamseg.transports.kafka.opening import NOTHING, Opening
from streamseg.transports.kafka.reader import records_of
from streamseg.transports.kafka.topics import Names, check, ids_of, partitions_of
from streamseg.transports.kafka.transactions import transactional_id

_SAMPLE = 1_000
_COORDINATOR_S, _LOOK_S = 10.0, 0.2
_SKEW_S = 60.0


def examine(connection: Connection, names: Names, sample: Sample, opening: Opening = NOTHING) -> Iterator[Finding]:
    """Findings from the broker to the events. What depends on something that failed is not asked."""
    try:
        client = admin(connection)
    except StreamsegError as error:
        yield Finding("broker", False, in_short(error))
        return
    try:
        yield from each("broker", lambda: _brokers(client))
        yield from each("topics", lambda: _topics(client, names))
        yield from each("rights", lambda: _rights(client, names))
        yield from each("group", lambda: _group(client, names))
        yield tried("transactions", lambda: _begin(connection, names))
        yield from each("open transactions", lambda: _hanging(client, names))
        events = partial(_events, connection, client, names, sample, opening)
        yield from each("events", events)
    finally:
        client.close()


def _topics(client: KafkaAdminClient, names: Names) -> Iterator[Finding]:
    there = partitions_of(client, [names.input])
    if names.input not in there:
        yield Finding(
            "input", False, f"there is no topic {names.input}: create it, or let `streamseg produce FILE --partitions N`"
        )
        return
    n = there[names.input]
    yield Finding("input", True, f"{names.input}: {n} partitions, so up to {n} workers")
    if not ids_of(client, names, [names.input]).input:
        yield Finding(
            "topic ids", None, "the brokers have none (before Kafka 2.8): a topic that is created again is not noticed"
        )
    ours = partitions_of(client, list(names.ours(n)))
    missing = sorted(names.ours(n).keys() - ours.keys())
    if missing:
        yield Finding("topics", None, f"not there yet, `streamseg run` creates them: {', '.join(missing)}")
    yield tried("topics", lambda: _checked(client, names, n))


def _checked(client: KafkaAdminClient, names: Names, n_partitions: int) -> str:
    check(client, names, n_partitions)
    return "partitions and settings of those that are there are right"


def _versions(client: KafkaAdminClient, broker_ids: list[int]) -> str:
    with translated("asking for versions"):
        versions = sorted({client.get_broker_version_data(i).broker_version for i in broker_ids})
    return f"brokers speak Kafka {', '.join('.'.join(map(str, version)) for version in versions)}"


def _rights(client: KafkaAdminClient, names: Names) -> Iterator[Finding]:
    """What the broker says that this user may do with topics that are there."""
    wanted = {
        names.input: {"READ"},
        names.customers: {"READ", "WRITE", "DELETE", "DESCRIBE_CONFIGS"},
        names.model: {"READ", "WRITE", "DELETE", "DESCRIBE_CONFIGS"},
        names.assignments: {"READ", "WRITE"},
        names.catalog: {"READ", "WRITE"},
        names.dead_letters: {"READ", "WRITE"},
    }
    with translated("asking for rights"):
        described = client.describe_topics(list(wanted))
    lacking = [
        f"{', '.join(missing)} on topic {topic['name']}"
        for topic in described
        if not topic["error_code"] and (missing := sorted(wanted[topic["name"]] - set(topic["authorized_operations"] or ())))
    ]
    for text in lacking:
        yield Finding("rights", False, f"this user lacks {text}: grant it")
    if not lacking:
        yield Finding("rights", True, "reading and writing the topics that are there is permitted")


def _brokers(client: KafkaAdminClient) -> Iterator[Finding]:
    with translated("describing the cluster"):
        cluster = client.describe_cluster()
    brokers = cluster["brokers"]
    yield Finding("broker", True, f"{len(brokers)} reached, cluster {cluster['cluster_id']}")
    yield tried("versions", lambda: _versions(client, [broker["broker_id"] for broker in brokers]))


def _group(client: KafkaAdminClient, names: Names) -> Iterator[Finding]:
    """Also whether this user may read the group."""
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            with translated(f"group {names.application}"):
                members = group_of(client, names.application).members
                client.list_group_offsets({names.application: None})
            break
        except RetriableError:
            # A new broker makes its coordinators when it is asked for the first time.
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)
    workers = ", ".join(sorted(members)) or "nobody works yet"
    yield Finding("group", True, f"{names.application}: {workers}")


def _begin(connection: Connection, names: Names) -> str:
    """Rights on the application's transactional ids."""
    name = transactional_id(names.application, "doctor")
    with discarded(producer(connection, name)) as probe, translated(f"transactional id {name}"):
        probe.init_transactions()
    return "permitted"


def _hanging(client: KafkaAdminClient, names: Names) -> Iterator[Finding]:
    """Transactions that are open for longer than ours may be, and what they hold up: whoever's they are."""
    with translated("listing transactions"):
        listed = client.list_transactions(state_filters=["Ongoing"], duration_filter_ms=2 * TRANSACTION_TIMEOUT_MS)
    ids = sorted(one.transactional_id for there in listed.values() for one in there)
    counts = partitions_of(client, [names.input, *names.ours(1)])
    places = [TopicPartition(topic, p) for topic, n in counts.items() for p in range(n)]
    with translated("reading the ends of topics"):
        stable, written = (
            client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST), isolation)
            for isolation in ("read_committed", "read_uncommitted")
        )
    held = [place for place in places if stable[place].offset < written[place].offset] if ids else []
    if not held:
        yield Finding("open transactions", True, "none that is old holds up a reader")
        return
    places_text = ", ".join(f"{place.topic}-{place.partition}" for place in sorted(held))
    yield Finding(
        "open transactions",
        False,
        f"readers of {places_text} wait for one that is open for long; open are {', '.join(ids)}: a worker that takes "
        "over ends this application's; end others with `kafka-transactions.sh abort`",
    )


def _events(
    connection: Connection, client: KafkaAdminClient, names: Names, sample: Sample, opening: Opening
) -> Iterator[Finding]:
    """A sample of the last records of all partitions."""
    count = partitions_of(client, [names.input]).get(names.input, 0)
    if not count:
        return
    records: list[Any] = []
    with discarded(consumer(connection)) as reader:
        for partition in range(count):
            place = TopicPartition(names.input, partition)
            reader.assign([place])
            with translated(f"reading {names.input}"):
                begin, end = reader.beginning_offsets([place])[place], reader.end_offsets([place])[place]
            records += records_of(reader, place, max(begin, end - max(1, _SAMPLE // count)), end)
    if not records:
        yield Finding("events", None, "the input is empty: send some, for example with `streamseg produce FILE`")
        return
    keys, values = [record.key for record in records], opening.of_all(records)
    timestamps = [record.timestamp for record in records]
    yield from sample.findings(keys, values, timestamps)
    skew = max(record.timestamp for record in records) / 1000 - sample.now_us / 1e6
    text = f"the last record is {skew:.0f} s ahead of this machine: set its clock" if skew > _SKEW_S else "agrees"
    yield Finding("clock", skew <= _SKEW_S, text)

"""Is everything there that the job needs? One finding a line, each with what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from streamseg.errors import StreamsegError
from streamseg.records.events import EventDecoder
from streamseg.transports.kafka.client import (
    TRANSACTION_TIMEOUT_MS,
    Connection,
    KafkaAdminClient,
    TopicPartition,
    admin,
    consumer,
    discarded,
    producer,
    translated,
)
from streamseg.transports.kafka.reader import records_of
from streamseg.transports.kafka.topics import Names, check, partitions_of

_SAMPLE = 20
_SKEW_S = 60.0


class Finding(NamedTuple):
    """`ok`: True, False, or None for what is not wrong but should be known."""

    what: str
    ok: bool | None
    text: str


def examine(connection: Connection, names: Names, decoder: EventDecoder, now_us: int) -> Iterator[Finding]:
    """Findings from the broker to the events. What depends on something that failed is not asked."""
    try:
        client = admin(connection)
    except StreamsegError as error:
        yield Finding("broker", False, _short(error))
        return
    try:
        cluster = client.describe_cluster()
        brokers = cluster["brokers"]
        yield Finding("broker", True, f"{len(brokers)} reached, cluster {cluster['cluster_id']}")
        yield _tried("versions", lambda: _versions(client, [broker["broker_id"] for broker in brokers]))
        yield from _topics(client, names)
        yield from _rights(client, names)
        yield _tried("transactions", lambda: _begin(connection, names))
        yield _tried("hanging transactions", lambda: _hanging(client, names))
        if names.input in partitions_of(client, [names.input]):
            yield from _events(connection, names, decoder, now_us)
    finally:
        client.close()


def _topics(client: KafkaAdminClient, names: Names) -> Iterator[Finding]:
    there = partitions_of(client, [names.input])
    if names.input not in there:
        yield Finding("input", False, f"there is no topic {names.input}: create it, streamseg never does")
        return
    n = there[names.input]
    yield Finding("input", True, f"{names.input}: {n} partitions, so up to {n} workers")
    ours = partitions_of(client, list(names.ours(n)))
    missing = sorted(names.ours(n).keys() - ours.keys())
    if missing:
        yield Finding("topics", None, f"not there yet, `streamseg run` creates them: {', '.join(missing)}")
    else:
        yield _tried("topics", lambda: _checked(client, names, n))


def _checked(client: KafkaAdminClient, names: Names, n_partitions: int) -> str:
    check(client, names, n_partitions)
    return "partitions and settings are right"


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


def _begin(connection: Connection, names: Names) -> str:
    """Rights on the application's transactional ids."""
    probe = producer(connection, f"{names.application}-doctor")
    with discarded(probe), translated(f"transactional id {names.application}-doctor"):
        probe.init_transactions()
    return "permitted"


def _hanging(client: KafkaAdminClient, names: Names) -> str:
    with translated("listing transactions"):
        found = client.list_transactions(state_filters=["Ongoing"], duration_filter_ms=2 * TRANSACTION_TIMEOUT_MS)
    ids = sorted(one.transactional_id for listed in found.values() for one in listed)
    ours = [name for name in ids if name.startswith(f"{names.application}-")]
    return f"open for long: {', '.join(ours)}; a worker that takes over ends them" if ours else "none"


def _events(connection: Connection, names: Names, decoder: EventDecoder, now_us: int) -> Iterator[Finding]:
    place = TopicPartition(names.input, 0)
    reader = consumer(connection)
    try:
        reader.assign([place])
        with translated(f"reading {names.input}"):
            begin, end = reader.beginning_offsets([place])[place], reader.end_offsets([place])[place]
        records = list(records_of(reader, place, max(begin, end - _SAMPLE), end))
    except StreamsegError as error:
        yield Finding("events", False, _short(error))
        return
    finally:
        reader.close()
    if not records:
        yield Finding("events", None, "partition 0 is empty: send some, for example with `streamseg produce FILE`")
        return
    keys, values = [record.key for record in records], [record.value for record in records]
    decoded, rejected = decoder.decode(keys, values, [record.timestamp for record in records], now_us)
    if rejected:
        first = rejected[0].error
        text = f"{len(rejected)} of the last {len(records)} would be dead letters: {first.code}: {first}"
        yield Finding("events", False, text)
    else:
        yield Finding("events", True, f"the last {len(decoded.ids)} of partition 0 can be read")
    skew = records[-1].timestamp / 1000 - time.time()
    text = f"the last record is {skew:.0f} s ahead of this machine: set its clock" if skew > _SKEW_S else "agrees"
    yield Finding("clock", skew <= _SKEW_S, text)


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        text = attempt()
    except StreamsegError as error:
        return Finding(what, False, _short(error))
    return Finding(what, None if text.startswith("open for long") else True, text)


def _short(error: StreamsegError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message

"""Topics as restore, `verify`, `explain` and `segments` read them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from streamseg.engine.ports import Committed, Log, Published, Records, Topic, TopicIds
from streamseg.errors import ConfigError, RetriableError, TruncatedError
from streamseg.formats.frames import ends_entry
from streamseg.formats.outputs import DeadLetter, dead_letter_line
from streamseg.transports.kafka.client import (
    Connection,
    KafkaConsumer,
    OffsetSpec,
    TopicPartition,
    admin,
    consumer,
    discard,
    polling,
    translated,
)
from streamseg.transports.kafka.opening import NOTHING, Opening
from streamseg.transports.kafka.topics import Names, ids_of, partitions_of, settings_of_topics

# Header of the first record of each commit in an output partition: how many the partition had before.
FIRST_HEADER = "streamseg.first"
# Header of an event, and of the tag that it leads to: W3C Trace Context.
TRACE_HEADER = "traceparent"
_POLL_MS = 200
# Header of a dead letter that has neither key nor value, which the client cannot send: it has an empty value instead.
EMPTY_HEADER = "streamseg.error.empty"
_LOOK_S = 0.002
# Between two questions to a broker that is away.
_BETWEEN_S = 0.1
# Without an answer for so long, reading is given up.
_PATIENCE_S = 60.0
# Consumers that are kept: each has a thread and a fetch of its own in memory.
_POOL = 6
# Records of one turn of a stream; between turns its consumer serves others.
_PORTION = 5_000

T = TypeVar("T")


class KafkaReader:
    """The reading side. Streams that are open at a time take turns on a few consumers, so memory does not grow with them.

    Attributes:
        patience_s: for how long a broker that is away is asked again where its topics begin and end, and how they are set.
    """

    patience_s = _PATIENCE_S

    def __init__(
        self, connection: Connection, names: Names, *, at_least_once: bool = False, opening: Opening = NOTHING
    ) -> None:
        """`opening`: what of a record is read as the event.

        Raises ConfigError where a topic is missing or the broker cannot be used, RetriableError where it is not there.
        """
        self.connection, self.names = connection, names
        self.at_least_once, self.opening = at_least_once, opening
        self._idle: list[KafkaConsumer] = []
        # Where each of them goes on without a seek, which would throw away what it fetched ahead.
        self._stands: dict[KafkaConsumer, tuple[TopicPartition, int]] = {}
        self._tails: dict[TopicPartition, KafkaConsumer] = {}
        # By what was tailed: the offset from which the next look goes on without a seek.
        self._tailed: dict[TopicPartition, int] = {}
        self._group: KafkaConsumer | None = None
        self._admin = admin(connection)
        try:
            self.n_partitions = self._found_partitions()
        except BaseException:
            discard(self._admin)
            raise

    def _found_partitions(self) -> int:
        there = partitions_of(self._admin, [self.names.input, self.names.model])
        if self.names.input not in there:
            raise ConfigError(
                f"there is no topic {self.names.input!r}", where="input.topic", hint="create it, or name another"
            )
        if self.names.model not in there:
            raise ConfigError(
                f"there is no state of application {self.names.application!r} on this broker",
                hint="has `streamseg run` begun, and with this streamseg.toml?",
            )
        return there[self.names.input]

    def topic_ids(self) -> TopicIds:
        return ids_of(self._admin, self.names, self.names.all)

    def _answer(self, ask: Callable[[], T]) -> T:
        """What the broker says. Raises RetriableError where it does not in time."""
        return _answered(ask, self.patience_s)

    # -- Positions ----------------------------------------------------------------------------------------------------

    def committed(self) -> dict[int, Committed]:
        if self._group is None:
            self._group = consumer(self.connection, group_id=self.names.application)
        found = {}
        for partition in range(self.n_partitions):
            # A transaction is open on it; a broker that is away looks the same.
            ask = partial(self._committed, TopicPartition(self.names.input, partition))
            there = _answered(ask, _PATIENCE_S, self._blocked)
            if there is not None:
                found[partition] = there
        return found

    def _committed(self, place: TopicPartition) -> Committed | None:
        assert self._group is not None
        with translated(f"committed offset of {place.topic}-{place.partition}"):
            there = self._group.committed(place, metadata=True, timeout_ms=1_000)
        return None if there is None else Committed(there.offset, there.metadata or "")

    def _blocked(self) -> None:
        """Somebody's transaction holds up an offset. Who only reads waits."""

    # -- Logs ---------------------------------------------------------------------------------------------------------

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        place = self.names.log(log, partition)
        if log is Log.SPOOL:
            return
        if wait_s:
            yield from self._tail(place, start, wait_s)
            return
        with self._consumer(place) as stream:
            first = self._first(stream, place)
            if 0 < start < first:
                raise TruncatedError(
                    f"offset {start} is not retained any more, the log begins at {first}",
                    where=f"topic {place.topic}, partition {place.partition}",
                    hint="a job that runs truncates its logs behind snapshots: read again from those",
                )
            end = self._end(stream, place)
        for record in self._records(place, max(start, first), end):
            yield record.offset, record.value

    def end(self, log: Log, partition: int) -> int:
        place = self.names.log(log, partition)
        with self._consumer(place) as stream:
            return self._end(stream, place)

    def _first(self, stream: KafkaConsumer, place: TopicPartition) -> int:
        return self._answer(lambda: first_of(stream, place))

    def _end(self, stream: KafkaConsumer, place: TopicPartition) -> int:
        return self._answer(lambda: end_of(stream, place))

    def _records(self, place: TopicPartition, start: int, end: int) -> Iterator[Any]:
        """Records from `start` to before `end`."""
        while start < end:
            with self._consumer(place) as stream:
                if self._stands.get(stream) != (place, start):
                    stream.seek(place, start)
                found, start = portion_of(stream, place, end)
                self._stands[stream] = place, start
            yield from found

    def _tail(self, place: TopicPartition, start: int, wait_s: float) -> Iterator[tuple[int, bytes]]:
        """What comes from `start` on: the broker holds the request until there is something."""
        stream = self._tails.get(place)
        if stream is None:
            stream = self._tails[place] = consumer(self.connection)
            stream.assign([place])
        if self._tailed.pop(place, None) != start:
            with translated(f"reading {place.topic}-{place.partition}"):
                stream.seek(place, start or stream.beginning_offsets([place])[place])
        deadline = time.monotonic() + wait_s
        found: list[Any] = []
        while not found and (left := deadline - time.monotonic()) > 0:
            with polling(f"reading {place.topic}-{place.partition}"):
                found = stream.poll(timeout_ms=1 + int(left * 1000)).get(place, [])
        while found and not ends_entry(found[-1].value):
            found += next_records(stream, place)
        for record in found:
            yield record.offset, record.value
        # Not if somebody stopped half way: what was polled and not taken is to be read again.
        self._tailed[place] = found[-1].offset + 1 if found else start

    @contextmanager
    def _consumer(self, place: TopicPartition) -> Iterator[KafkaConsumer]:
        """A consumer assigned to one partition: the one that was there before, if it is free."""
        same = [i for i, stream in enumerate(self._idle) if place in stream.assignment()]
        if same or len(self._idle) >= _POOL:
            # The one that was there before, or the one that was used least lately.
            stream = self._idle.pop(same[0] if same else 0)
        else:
            stream = consumer(self.connection)
        if place not in stream.assignment():
            stream.assign([place])
        try:
            yield stream
        finally:
            self._idle.append(stream)

    # -- Input and outputs --------------------------------------------------------------------------------------------

    def input_range(self, partition: int) -> tuple[int, int]:
        """Offsets of the first input record that is there, and behind the last that is committed."""
        place = TopicPartition(self.names.input, partition)
        with self._consumer(place) as stream:
            return self._first(stream, place), self._end(stream, place)

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        place = TopicPartition(self.names.input, partition)
        with self._consumer(place) as stream:
            if self._first(stream, place) > first:
                return None
        return columns(list(self._records(place, first, next_offset)), next_offset, self.opening)

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        if self.at_least_once and topic is not Topic.CATALOG:
            return None
        place = TopicPartition(self.names.topic(topic), partition)
        policy = self._answer(lambda: settings_of_topics(self._admin, [place.topic])).get(place.topic, {})
        if topic is Topic.CATALOG:
            compacted = "compact" in policy.get("cleanup.policy", "")
            return Published(1 if compacted else 0, (value for value, _ in self._values(topic, place, 0)))
        start = self._uncompacted(place, policy)
        values = self._values(topic, place, start)
        for value, header in values:
            if header is not None and header >= first:
                return Published(header, _chained(value, values))
        # Nothing was published since, or it is gone.
        return Published(sys.maxsize if start else first, iter(()))

    def _uncompacted(self, place: TopicPartition, policy: dict[str, str]) -> int:
        """The offset from which on a compacted topic still has every record."""
        with self._consumer(place) as stream:
            if "compact" not in policy.get("cleanup.policy", ""):
                return self._first(stream, place)
            since_ms = int(time.time() * 1000) - int(policy.get("min.compaction.lag.ms", "0"))
            found = self._answer(lambda: _first_since(stream, place, max(0, since_ms)))
            return self._end(stream, place) if found is None else found

    def _values(self, topic: Topic, place: TopicPartition, start: int) -> Iterator[tuple[bytes | None, int | None]]:
        with self._consumer(place) as stream:
            begin, end = max(start, self._first(stream, place)), self._end(stream, place)
        for record in self._records(place, begin, end):
            headers = dict(record.headers or ())
            first = headers.get(FIRST_HEADER)
            yield _as_made(topic, record, headers), None if first is None else int(first)

    def streamed(self, topic: Topic, partition: int) -> bool:
        return self.at_least_once

    def _written(self) -> list[TopicPartition]:
        """Every partition that a commit writes to."""
        return self.names.written(self.n_partitions)

    def settle(self) -> None:
        """Markers of a transaction reach one partition after another, some after its commit was acknowledged."""
        latest = dict.fromkeys(self._written(), OffsetSpec.LATEST)

        def ends(isolation: str) -> dict[TopicPartition, int]:
            with translated("reading the ends of topics"):
                found = self._admin.list_partition_offsets(latest, isolation)
            return {place: there.offset for place, there in found.items()}

        written = self._answer(lambda: ends("read_uncommitted"))
        deadline = time.monotonic() + _PATIENCE_S
        while undecided := [p for p, end in self._answer(lambda: ends("read_committed")).items() if end < written[p]]:
            if time.monotonic() >= deadline:
                place = min(undecided)
                raise RetriableError("a transaction does not end", where=f"{place.topic}-{place.partition}")
            time.sleep(_LOOK_S)

    def close(self) -> None:
        for client in (*self._idle, *self._tails.values(), self._group, self._admin):
            if client is not None:
                discard(client)
        self._idle, self._group, self._tails = [], None, {}


def _answered(ask: Callable[[], T], patience_s: float, meanwhile: Callable[[], None] = lambda: None) -> T:
    """What a broker says to a question that is asked again until it does. Raises RetriableError."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except RetriableError:
            meanwhile()
            if time.monotonic() >= deadline:
                raise
        time.sleep(_BETWEEN_S)


def first_of(stream: KafkaConsumer, place: TopicPartition) -> int:
    """Where records begin that are there."""
    with translated(f"reading {place.topic}-{place.partition}"):
        return int(stream.beginning_offsets([place])[place])


def _first_since(stream: KafkaConsumer, place: TopicPartition, since_ms: int) -> int | None:
    """The first offset that is not older; None where all are."""
    with translated(f"reading {place.topic}-{place.partition}"):
        found = stream.offsets_for_times({place: since_ms})[place]
    return None if found is None else int(found.offset)


def end_of(stream: KafkaConsumer, place: TopicPartition) -> int:
    """Where committed records end now."""
    with translated(f"reading {place.topic}-{place.partition}"):
        return int(stream.end_offsets([place])[place])


def records_of(stream: KafkaConsumer, place: TopicPartition, start: int, end: int) -> Iterator[Any]:
    """Records from `start` to before `end`, which may be between transactions. Raises RetriableError."""
    if start < end:
        stream.seek(place, start)
    while start < end:
        found, start = portion_of(stream, place, end)
        yield from found


def portion_of(stream: KafkaConsumer, place: TopicPartition, end: int) -> tuple[list[Any], int]:
    """The next records before `end`, and where to go on. Raises RetriableError, TruncatedError."""
    found = [record for record in next_records(stream, place, end) if record.offset < end]
    return found, int(stream.position(place))


def next_records(stream: KafkaConsumer, place: TopicPartition, end: int = sys.maxsize) -> list[Any]:
    """What comes next; nothing where that ends at `end`. Raises RetriableError where the broker is silent."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with polling(f"reading {place.topic}-{place.partition}"):
            found: list[Any] = stream.poll(timeout_ms=_POLL_MS, max_records=_PORTION).get(place, [])
            position = stream.position(place)
        if found or position >= end:
            return found
        if time.monotonic() > deadline:
            raise RetriableError("the broker does not answer", where=f"{place.topic}-{place.partition} at {position}")


def _chained(first: bytes | None, rest: Iterator[tuple[bytes | None, int | None]]) -> Iterator[bytes | None]:
    yield first
    for value, _ in rest:
        yield value


def columns(found: list[Any], next_offset: int, opening: Opening = NOTHING) -> Records:
    """Consumer records as columns."""
    return Records(
        [record.offset for record in found],
        [record.key for record in found],
        opening.of_all(found),
        [record.timestamp if record.timestamp is not None and record.timestamp >= 0 else None for record in found],
        next_offset,
        [_trace(record.headers) for record in found] if any(record.headers for record in found) else None,
    )


def _trace(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    return next((value for name, value in headers if name == TRACE_HEADER), None)


def value_of_letter(value: bytes | None, headers: Mapping[str, bytes]) -> bytes | None:
    return None if EMPTY_HEADER in headers else value


def _as_made(topic: Topic, record: Any, headers: dict[str, bytes]) -> bytes | None:
    """A published record's value as the job made it, however it is written."""
    value: bytes | None = record.value
    if topic is Topic.DEAD_LETTERS:
        return _letter_line(record, headers)
    if topic is Topic.ASSIGNMENTS and value is not None and value[:1] == b"\0":
        # Only where it is needed: not every installation has Avro.
        from streamseg.formats.avro_tags import tag_as_json

        return tag_as_json(value)
    return value


def _letter_line(record: Any, headers: dict[str, bytes]) -> bytes:
    def text(name: str) -> str:
        return headers.get(f"streamseg.error.{name}", b"").decode()

    return dead_letter_line(
        DeadLetter(
            record.key,
            value_of_letter(record.value, headers),
            text("code"),
            text("message"),
            text("topic"),
            int(text("partition") or -1),
            int(text("offset") or -1),
            text("field"),
            int(text("timestamp")) if text("timestamp") else None,
        )
    )

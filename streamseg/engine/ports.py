"""The contract between the job and whatever holds its logs.

`commit(plan)` is the only verb that publishes. A plan is everything that one micro-batch publishes, and the next input
offsets: all of it or nothing. Every transport passes one contract suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NamedTuple, Protocol, cast
from zlib import crc32

from streamseg.errors import ConfigError
from streamseg.formats.outputs import DeadLetter


class Log(StrEnum):
    """Internal logs. Records are (offset, bytes); offsets rise and may have gaps."""

    CUSTOMERS = "customers"
    MODEL = "model"
    MODEL_SNAPSHOTS = "model-snapshots"
    # The input, where the transport keeps it for the job (standard input); others have nothing to delete there.
    SPOOL = "spool"


class Topic(StrEnum):
    """What the job publishes for others."""

    ASSIGNMENTS = "assignments"
    CATALOG = "catalog"
    DEAD_LETTERS = "dead-letters"


class Records(NamedTuple):
    """Input records of one partition in offset order, as columns. `next_offset` is where the next poll goes on.

    `traces`: the W3C `traceparent` of each, where any has one.
    """

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int | None]
    next_offset: int
    traces: Sequence[bytes | None] | None = None

    @classmethod
    def of_values(cls, values: Sequence[bytes], first: int) -> Records:
        """Records that have nothing but a value, from offset `first` on."""
        n = len(values)
        return cls(range(first, first + n), [None] * n, values, [None] * n, first + n)

    @property
    def checksum(self) -> int:
        """CRC-32 of keys and values with their number; None differs from empty."""
        total = crc32(len(self.values).to_bytes(8, "little"))
        for column in (self.keys, self.values):
            missing = column.count(None)
            if missing == len(column):
                total = crc32(b"\0null", total)
                continue
            parts = column if not missing else [b"\0null" if part is None else part for part in column]
            total = crc32(b"\n".join(cast("Sequence[bytes]", parts)), total)
        return total

    def part(self, first: int, end: int) -> Records:
        """Records `first` to `end` of these."""
        end = min(end, len(self.offsets))
        rows = slice(first, end)
        next_offset = self.offsets[end] if end < len(self.offsets) else self.next_offset
        traces = None if self.traces is None else self.traces[rows]
        return Records(self.offsets[rows], self.keys[rows], self.values[rows], self.timestamps_ms[rows], next_offset, traces)

    def followed_by(self, more: Records) -> Records:
        """These, and the ones behind them, without traces."""
        return Records(
            [*self.offsets, *more.offsets],
            [*self.keys, *more.keys],
            [*self.values, *more.values],
            [*self.timestamps_ms, *more.timestamps_ms],
            more.next_offset,
        )


class Ownership(NamedTuple):
    """Proof of owning partitions, taken when a batch is polled. A commit with one that is outdated publishes nothing.

    `proof` is the transport's own.
    """

    generation: int
    partitions: tuple[int, ...]
    proof: object = None


class Polled(NamedTuple):
    """A poll's answer.

    `ended`: the input is bounded and there is no more. `moving`: partitions are being shared anew, and hardly a commit goes
    through until they are.
    """

    partitions: Mapping[int, Records]
    ownership: Ownership
    ended: bool = False
    moving: bool = False


class Committed(NamedTuple):
    """A committed input position, with the metadata that was committed with it."""

    next_offset: int
    metadata: str


class Published(NamedTuple):
    """Published values of a partition in order; `first` is how many were published before them, ever."""

    first: int
    values: Iterator[bytes | None]


class Tagged(NamedTuple):
    """Assignments of a partition in order: the customers' ids, which are the keys, and the records; None erases.

    `traces`: by place, the `traceparent` of the event that a record is about.
    """

    ids: list[str]
    values: list[bytes | None]
    traces: Mapping[int, bytes] = {}


class TagSchemas(NamedTuple):
    """Ids under which a registry has the Avro schemas of the tags' keys and values."""

    key: bytes
    value: bytes


@dataclass(frozen=True)
class CommitPlan:
    """All that one commit publishes.

    Attributes:
        assignments, dead_letters: by partition; `published` says how many of each partition had before.
        catalog: (key, value).
        internal: entries for internal logs: (log, partition, records), in this order; the model delta is last.
        offsets: the next input offset and metadata of each partition that the plan touches, moved or not.
        tag_schemas: what assignments, which are JSON here, are published with; None: as they are.
    """

    ownership: Ownership
    offsets: Mapping[int, Committed]
    assignments: Mapping[int, Tagged] = field(default_factory=dict)
    catalog: Sequence[tuple[bytes, bytes]] = ()
    dead_letters: Mapping[int, Sequence[DeadLetter]] = field(default_factory=dict)
    internal: Sequence[tuple[Log, int, Iterable[bytes]]] = ()
    published: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    tag_schemas: TagSchemas | None = None


class Outcome(Enum):
    """COMMITTED: all of the plan is there, though perhaps not readable yet. ABORTED: nothing is. UNKNOWN: the logs say."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class CommitResult(NamedTuple):
    """`first_offsets`: where the first record of each entry of `plan.internal` went, in their order; () if not committed."""

    outcome: Outcome
    first_offsets: Sequence[int] = ()


class TopicIds(NamedTuple):
    """What tells a topic from another one of the same name: of the input, and by name of those that are written.

    Empty where the transport has no such ids.
    """

    input: bytes = b""
    written: Mapping[str, bytes] = {}

    def changed(self, now: TopicIds, input_name: str) -> str | None:
        """Name of a topic that is another one now. What has no id then or now is taken for the same. IN now."""
        pairs = {input_name: (self.input, now.input)}
        pairs |= {name: (then, now.written.get(name, b"")) for name, then in self.written.items()}
        return next((name for name, (then, there) in pairs.items() if then and there and then != there), None)


NO_TOPIC_IDS = TopicIds()


def check_same(then: TopicIds, now: TopicIds, input_name: str) -> None:
    """Raises ConfigError where a topic is another one of the same name now: its offsets mean other records. IN all."""
    name = then.changed(now, input_name)
    if name is not None:
        raise ConfigError(
            f"the topic {name} is another one than before: it was deleted and created again, and what is known of the old "
            "one's offsets does not hold for it",
            where=f"topic {name}",
            hint="begin a new application on it (another `application`, with outputs of its own); the state of this one "
            "stays as it is, and `verify` and `segments` read it where its own topics are still there",
        )


class LogReader(Protocol):
    """The reading side: restore, `verify`, `explain`, `segments`."""

    @property
    def n_partitions(self) -> int:
        """Partitions of the input, and of the customer log."""
        ...

    def topic_ids(self) -> TopicIds:
        """Of the topics that are there now. Raises RetriableError."""
        ...

    def committed(self) -> Mapping[int, Committed]:
        """Committed positions of partitions that have one. Waits for transactions in flight. Raises RetriableError."""
        ...

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        """Records of an internal log from offset `start` (or the first one retained, if `start` is 0) that can be read now.

        What was committed may be readable a little later, whole commits at a time. Where there is nothing yet, waits up to
        `wait_s` for it. Raises TruncatedError where `start` is above 0 and no longer retained.
        """
        ...

    def end(self, log: Log, partition: int) -> int:
        """The offset behind the last record of an internal log that can be read now; 0 where there is none."""
        ...

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        """Input records again, for `verify`; None where they are gone."""
        ...

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        """Published values from the `first`-th ever published, or the first after it that is still there.

        None where they cannot be read.
        """
        ...

    def streamed(self, topic: Topic, partition: int) -> bool:
        """Whether a topic's records went to a stream, which nobody can read again."""
        ...

    def settle(self) -> None:
        """Wait until all that was written before now is decided, and what was committed of it can be read.

        Raises RetriableError where that does not come to be.
        """
        ...

    def close(self) -> None: ...


class Transport(LogReader, Protocol):
    """The whole contract."""

    def begins(self) -> Mapping[int, int]:
        """By partition, where an application begins that has committed nothing."""
        ...

    def ownership(self) -> Ownership:
        """Which partitions are this worker's now."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """Up to `max_records` input records of each owned partition, after the last polled. Waits up to `timeout_s`.

        Ownership may change here and nowhere else. A partition that was gained gives records only after a `seek`.
        """
        ...

    def keep_place(self) -> None:
        """Tell the other workers that this one lives, while it reads nothing for long. Asked often, it does little.

        Polled records are as a poll left them; only a `seek` goes on with reading. Ownership is as of the last poll.
        """
        ...

    def lags(self) -> Mapping[int, int]:
        """Records of owned partitions that were not polled yet, as far as is known without asking."""
        ...

    def seek(self, positions: Mapping[int, int]) -> None:
        """Where the next poll goes on: after restore, and after an abort."""
        ...

    def commit(self, plan: CommitPlan) -> CommitResult:
        """Publish a plan, all of it or nothing: nothing where the plan's ownership is outdated.

        Raises FencedError where another instance has taken this one's place for good.
        """
        ...

    def end_dead_transactions(self) -> None:
        """End transactions of this application whose owner is dead or hangs: readers wait for their outcome.

        Raises RetriableError.
        """
        ...

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        """Delete records of an internal log below `offset`."""
        ...

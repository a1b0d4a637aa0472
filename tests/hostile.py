"""An in-memory store that does to its users what Kafka does.

A partition is a list of places: records of transactions, and markers that take an offset each, so offsets have gaps. Readers
see a partition up to its first open transaction, and a commit reaches one partition after another, each a few looks after
it was decided (late visibility). An owner may be deposed, a transaction of a dead worker stays open until somebody ends
it, a commit may be done without its maker learning of it, and others work and truncate while somebody reads. What happens
when is drawn by the test, so that Hypothesis can shrink it; `fired` counts each hazard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from streamseg.engine.ports import (
    CommitPlan,
    CommitResult,
    Committed,
    Log,
    Outcome,
    Ownership,
    Polled,
    Published,
    Records,
    Tagged,
    Topic,
    TopicIds,
)
from streamseg.errors import TruncatedError
from streamseg.formats.outputs import dead_letter_line

Message = tuple[bytes | None, bytes | None, int | None]
Draw = Callable[[str], int]


class Dead(BaseException):
    """The worker was killed inside a commit: its transaction stays open."""


# Looks at an open transaction after which the broker ends it.
_TIMEOUT_LOOKS = 30
# A look for less than this may come back before the broker's answer does.
_SHORT_S = 0.01


def never(hazard: str) -> int:
    return 0


@dataclass
class _Transaction:
    """`looks`: by partition of a log, how many more looks until its outcome is seen there."""

    member: str
    epoch: int
    state: str = "open"
    offsets: dict[int, Committed] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    waited: int = 0


@dataclass
class _Partition:
    places: list[tuple[bytes | None, _Transaction | None, bool]] = field(default_factory=list)
    first: int = 0


class HostileBroker:
    """What the workers of a group share."""

    def __init__(self, n_partitions: int, draw: Draw = never) -> None:
        """`draw(hazard)`: how strongly a hazard strikes now, 0 for not at all."""
        self.n_partitions, self.draw = n_partitions, draw
        self.inputs: list[list[Message]] = [[] for _ in range(n_partitions)]
        self.logs: dict[str, _Partition] = {}
        self.offsets: dict[int, Committed] = {}
        self.transactions: list[_Transaction] = []
        self.epochs: Counter[str] = Counter()
        self.members: list[str] = []
        self.generation = 0
        self.fired: Counter[str] = Counter()
        # Lets somebody else work while a member reads.
        self.meanwhile: Callable[[str], None] = lambda member: None

    def strike(self, hazard: str) -> int:
        strength = self.draw(hazard)
        self.fired[hazard] += strength > 0
        return strength

    def settle(self) -> None:
        """Time passes: all outcomes are seen everywhere."""
        for log in self.logs.values():
            for _, transaction, _ in log.places:
                if transaction is not None:
                    transaction.looks.clear()

    # -- Group --------------------------------------------------------------------------------------------------------

    def rebalance(self, members: list[str]) -> None:
        if members != self.members:
            self.members = members
            self.generation += 1

    def owned(self, member: str) -> tuple[int, ...]:
        if member not in self.members:
            return ()
        at = self.members.index(member)
        return tuple(p for p in range(self.n_partitions) if p % len(self.members) == at)

    # -- Transactions -------------------------------------------------------------------------------------------------

    def begin(self, member: str, epoch: int) -> _Transaction:
        transaction = _Transaction(member, epoch)
        self.transactions.append(transaction)
        return transaction

    def end(self, transaction: _Transaction, state: str) -> None:
        """Decided at once; markers are seen later, in one partition after another."""
        transaction.state = state
        touched = {name for name, log in self.logs.items() for _, of, _ in log.places if of is transaction}
        for name in sorted(touched):
            transaction.looks[name] = self.strike("late visibility")
            self.logs[name].places.append((None, transaction, True))
            self.fired["offset gap"] += 1
        if state == "committed":
            self.offsets |= transaction.offsets

    def init(self, member: str) -> int:
        """A producer with the member's id begins: what the one before left open is aborted."""
        self.epochs[member] += 1
        for transaction in self.transactions:
            if transaction.member == member and transaction.state == "open":
                self.end(transaction, "aborted")
                self.fired["open transaction ended"] += 1
        self.transactions = [t for t in self.transactions if t.state == "open"]
        return self.epochs[member]

    def pending(self, partition: int) -> list[_Transaction]:
        return [t for t in self.transactions if t.state == "open" and partition in t.offsets]

    def _wait_for(self, transaction: _Transaction, look: bool) -> None:
        """The broker ends a transaction that is open for too long."""
        transaction.waited += look
        if transaction.waited > _TIMEOUT_LOOKS:
            self.epochs[transaction.member] += 1
            self.end(transaction, "aborted")
            self.fired["transaction timed out"] += 1

    # -- Logs ---------------------------------------------------------------------------------------------------------

    def append(self, name: str, values: Iterable[bytes | None], transaction: _Transaction) -> int:
        log = self.logs.setdefault(name, _Partition())
        first = len(log.places)
        log.places += [(value, transaction, False) for value in values]
        return first

    def visible(self, name: str, start: int, look: bool = True) -> Iterator[tuple[int, bytes | None]]:
        """Committed records from `start` up to the first transaction whose outcome is not seen yet."""
        log = self.logs.get(name, _Partition())
        for offset in range(max(start, log.first), len(log.places)):
            value, transaction, marker = log.places[offset]
            assert transaction is not None
            if transaction.state == "open":
                self._wait_for(transaction, look)
                return
            if transaction.looks.get(name, 0) > 0:
                if look:
                    transaction.looks[name] -= 1
                return
            if not marker and transaction.state == "committed":
                yield offset, value


class HostileTransport:
    """One worker's connection."""

    def __init__(self, broker: HostileBroker, member: str) -> None:
        self.broker, self.member = broker, member
        self.n_partitions = broker.n_partitions
        self._fault: Callable[[str], None] = lambda point: None
        self._epoch = broker.init(member)
        if member not in broker.members:
            broker.rebalance(sorted([*broker.members, member]))
        self._ownership = Ownership(0, ())
        self._positions: dict[int, int] = {}

    @classmethod
    def reader(cls, broker: HostileBroker) -> HostileTransport:
        """Not a member of the group."""
        reader = cls(broker, "reader")
        reader.close()
        return reader

    # -- Reading ------------------------------------------------------------------------------------------------------

    def end(self, log: Log, partition: int) -> int:
        return max((offset + 1 for offset, _ in self.read(log, partition, 0)), default=0)

    def lags(self) -> dict[int, int]:
        return {}

    def topic_ids(self) -> TopicIds:
        return TopicIds(b"input", {"model": b"model"})

    def committed(self) -> dict[int, Committed]:
        """Waits for transactions in flight: those of the dead it ends, others end when their time is up."""
        if any(self.broker.pending(partition) for partition in range(self.n_partitions)):
            self.end_dead_transactions()
        for partition in range(self.n_partitions):
            for transaction in self.broker.pending(partition):
                self.broker.init(transaction.member)
        return dict(self.broker.offsets)

    def keep_place(self) -> None:
        """Who owns what moves in polls alone."""

    def end_dead_transactions(self) -> None:
        alive = {*self.broker.members, self.member}
        for transaction in [t for t in self.broker.transactions if t.state == "open" and t.member not in alive]:
            self.broker.init(transaction.member)
            self.broker.fired["transaction of the dead ended"] += 1

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        name = f"{log}-{partition}"
        first = self.broker.logs.get(name, _Partition()).first
        if 0 < start < first:
            self.broker.fired["reader behind truncation"] += 1
            raise TruncatedError(f"offset {start} is not retained any more, the log begins at {first}", where=name)
        if 0.0 < wait_s < _SHORT_S and self.broker.strike("empty look"):
            return
        found = list(self.broker.visible(name, start))
        if self.broker.strike("work while somebody reads"):
            self.broker.meanwhile(self.member)
        for offset, value in found:
            assert value is not None
            if offset < self.broker.logs[name].first:
                self.broker.fired["truncated while it was read"] += 1
                raise TruncatedError(f"offset {offset} was deleted while it was read", where=name)
            yield offset, value

    def input_records(self, partition: int, first: int, next_offset: int) -> Records | None:
        rows = self.broker.inputs[partition][first:next_offset]
        return _columns(first, rows, next_offset)

    def published(self, topic: Topic, partition: int, first: int) -> Published | None:
        values = [value for _, value in self.broker.visible(f"{topic}-{partition}", 0, look=False)]
        return Published(first, iter(values[first:]))

    def streamed(self, topic: Topic, partition: int) -> bool:
        return False

    def settle(self) -> None:
        for transaction in [t for t in self.broker.transactions if t.state == "open"]:
            self.broker.init(transaction.member)
        self.broker.settle()

    # -- Working ------------------------------------------------------------------------------------------------------

    def begins(self) -> Mapping[int, int]:
        return dict.fromkeys(range(self.n_partitions), 0)

    def ownership(self) -> Ownership:
        return self._ownership

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        mine = self.broker.owned(self.member)
        if (self.broker.generation, mine) != self._ownership[:2]:
            self._ownership = Ownership(self.broker.generation, mine)
            self._positions = {p: at for p, at in self._positions.items() if p in mine}
            self.broker.fired["rebalance"] += 1
        partitions = {}
        for partition, position in self._positions.items():
            rows = self.broker.inputs[partition][position : position + max_records]
            if rows:
                partitions[partition] = _columns(position, rows, position + len(rows))
                self._positions[partition] = position + len(rows)
        done = all(self._positions.get(p, 0) >= len(self.broker.inputs[p]) for p in mine)
        return Polled(partitions, self._ownership, done and not partitions)

    def seek(self, positions: Mapping[int, int]) -> None:
        self._positions |= {p: at for p, at in positions.items() if p in self._ownership.partitions}

    def produce(self, partition: int, records: Iterable[Message]) -> None:
        self.broker.inputs[partition] += records

    def commit(self, plan: CommitPlan) -> CommitResult:
        broker = self.broker
        self._fault("before_write")
        if self._epoch != broker.epochs[self.member]:
            # Fenced by another worker's `committed`: this one lives, and begins again.
            broker.fired["fenced producer"] += 1
            self._epoch = broker.init(self.member)
            return CommitResult(Outcome.ABORTED)
        if broker.strike("abort"):
            return CommitResult(Outcome.ABORTED)
        transaction = broker.begin(self.member, self._epoch)
        try:
            firsts = self._write(plan, transaction)
            outcome = self._ask(plan, transaction)
        except Dead:
            raise
        except BaseException:
            broker.end(transaction, "aborted")
            raise
        if outcome is not None:
            return CommitResult(outcome)
        broker.end(transaction, "committed")
        self._fault("after_commit")
        if broker.strike("killed after the commit"):
            raise Dead(self.member)
        if broker.strike("unknown, committed"):
            return CommitResult(Outcome.UNKNOWN)
        return CommitResult(Outcome.COMMITTED, firsts)

    def _ask(self, plan: CommitPlan, transaction: _Transaction) -> Outcome | None:
        """Offsets, then the commit. None where nothing came in between. Raises Dead."""
        broker = self.broker
        self._fault("before_sync")
        self._rebalance_perhaps()
        if plan.offsets and plan.ownership.generation != broker.generation:
            broker.fired["deposed owner"] += 1
            broker.end(transaction, "aborted")
            return Outcome.ABORTED
        if broker.strike("killed before its offsets"):
            raise Dead(self.member)
        transaction.offsets = dict(plan.offsets)
        if broker.strike("killed in a transaction"):
            raise Dead(self.member)
        self._fault("before_commit")
        if broker.strike("fenced in mid-commit"):
            # It hung so long that somebody ended its transaction: the client cannot know what became of it.
            broker.init(self.member)
            return Outcome.UNKNOWN
        if broker.strike("unknown, not committed"):
            broker.end(transaction, "aborted")
            return Outcome.UNKNOWN
        return None

    def _rebalance_perhaps(self) -> None:
        members = self.broker.members
        if self.broker.strike("rebalance in mid-commit") and len(members) > 1:
            self.broker.rebalance([*members[1:], members[0]])

    def _write(self, plan: CommitPlan, transaction: _Transaction) -> list[int]:
        for partition, letters in plan.dead_letters.items():
            self.broker.append(f"{Topic.DEAD_LETTERS}-{partition}", map(dead_letter_line, letters), transaction)
        for partition, tags in plan.assignments.items():
            self.broker.append(f"{Topic.ASSIGNMENTS}-{partition}", _values(tags), transaction)
        if plan.catalog:
            self.broker.append(f"{Topic.CATALOG}-0", (value for _, value in plan.catalog), transaction)
        return [self.broker.append(f"{log}-{p}", records, transaction) for log, p, records in plan.internal]

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        there = self.broker.logs.get(f"{log}-{partition}")
        if there is not None and log is not Log.SPOOL:
            self.broker.fired["truncation"] += offset > there.first
            there.first = max(there.first, offset)

    def depose(self) -> None:
        self.broker.rebalance([*self.broker.members, "another"])

    def close(self) -> None:
        self.broker.rebalance([member for member in self.broker.members if member != self.member])


def _values(tags: Tagged) -> list[bytes | None]:
    return tags.values


def _columns(first: int, rows: list[Message], next_offset: int) -> Records:
    return Records(
        range(first, first + len(rows)),
        [key for key, _, _ in rows],
        [value for _, value, _ in rows],
        [at for _, _, at in rows],
        next_offset,
    )

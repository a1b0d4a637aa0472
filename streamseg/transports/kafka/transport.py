"""The job's store on Kafka: a commit is one transaction.

How transactions are used, and why, is in `transactions`; how the input is shared in `membership`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamseg.engine.ports import (
    CommitPlan,
    CommitResult,
    Committed,
    Log,
    Outcome,
    Ownership,
    Polled,
    check_same,
)
from streamseg.errors import ConfigError, RetriableError
from streamseg.transports.kafka.client import (
    TRANSACTION_TIMEOUT_MS,
    Connection,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    discard,
    discarded,
    producer,
    translated,
)
from streamseg.transports.kafka.membership import Member
from streamseg.transports.kafka.opening import NOTHING, Opening
from streamseg.transports.kafka.outputs import send_catalog, send_outputs
from streamseg.transports.kafka.reader import KafkaReader, columns
from streamseg.transports.kafka.topics import Names, ids_of, prepare
from streamseg.transports.kafka.transactions import Transactions, arrived, transactional_id

# Of an internal log, bytes that are on their way at a time: the client has no bound of its own.
_IN_FLIGHT_BYTES = 16_000_000
# What a transaction may take to be written: the rest of its time-out is for sending offsets and committing.
_WRITE_S = 0.7 * TRANSACTION_TIMEOUT_MS / 1000

# Between two looks at what the topics are.
_LOOK_S = 5.0


class KafkaTransport(KafkaReader):
    """The whole contract."""

    # The loop itself tries again, and tells.
    patience_s = 0.0

    def __init__(
        self,
        connection: Connection,
        names: Names,
        worker: str,
        *,
        at_least_once: bool = False,
        create_topics: bool = True,
        replication_factor: int = -1,
        start: str = "earliest",
        skip_lost: bool = False,
        opening: Opening = NOTHING,
        fault: Callable[[str], None] = lambda point: None,
    ) -> None:
        """`worker` is the stable id: a restart under the same one takes its place at once.

        `start`: where a new application begins. `skip_lost`: go on where the input begins if committed offsets are gone
        from it. `fault` is called at named points of a commit, for tests that pull cables. Raises as KafkaReader.
        """
        with discarded(admin(connection)) as client:
            prepare(client, names, create=create_topics, replication_factor=replication_factor)
        super().__init__(connection, names, at_least_once=at_least_once, opening=opening)
        self.worker, self._start, self._fault = worker, start, fault
        self._transactional_id = transactional_id(names.application, worker)
        self._transactions = Transactions(connection, self._transactional_id, lambda point: self._fault(point))
        self._outputs = producer(connection, None) if at_least_once else None
        self._ids, self._looked_at_ids = self.topic_ids(), time.monotonic()
        self.member = Member(connection, names.input, names.application, self._transactional_id, skip_lost=skip_lost)

    # -- Input --------------------------------------------------------------------------------------------------------

    def ownership(self) -> Ownership:
        return self.member.ownership

    def begins(self) -> dict[int, int]:
        """Where an application begins that has committed nothing."""
        places = [TopicPartition(self.names.input, partition) for partition in range(self.n_partitions)]
        with self._consumer(places[0]) as stream, translated(f"reading {self.names.input}"):
            found = stream.end_offsets(places) if self._start == "latest" else stream.beginning_offsets(places)
        return {place.partition: int(offset) for place, offset in found.items()}

    def seek(self, positions: Mapping[int, int]) -> None:
        self.member.seek(positions)

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        polled = self.member.poll(max_records, timeout_s)
        self.member.look_at_group()
        counted = self.member.n_partitions
        if counted is not None and counted != self.n_partitions:
            raise ConfigError(
                f"the input has {counted} partitions, the state was written for {self.n_partitions}: partitions were "
                "added, and its customers are now on other partitions than their state",
                where=f"topic {self.names.input}",
                hint="start a new application (another name) from the input's beginning; no state was lost",
            )
        self._check_topics(read=bool(polled))
        partitions = {p: columns(records, records[-1].offset + 1, self.opening) for p, records in polled.items()}
        return Polled(partitions, self.member.ownership, moving=self.member.is_joining())

    def _check_topics(self, *, read: bool) -> None:
        """Raises ConfigError where a topic was made anew under its name, RetriableError.

        Of the input that is looked at behind each poll that brought records, before any of them is used: what is `_ids` now
        was it when they were read, as an id never comes back. Of the others every few seconds.
        """
        all_due = time.monotonic() - self._looked_at_ids > _LOOK_S
        if not all_due and not read:
            return
        topics = self.names.all if all_due else (self.names.input,)
        check_same(self._ids, ids_of(self._admin, self.names, topics), self.names.input)
        if all_due:
            self._looked_at_ids = time.monotonic()

    def keep_place(self) -> None:
        self.member.keep_place()

    def lags(self) -> dict[int, int]:
        return self.member.lags()

    # -- Commit -------------------------------------------------------------------------------------------------------

    def commit(self, plan: CommitPlan) -> CommitResult:
        self._fault("before_write")
        firsts: list[Any] = []
        offsets = {
            TopicPartition(self.names.input, p): OffsetAndMetadata(there.next_offset, there.metadata, -1)
            for p, there in plan.offsets.items()
        }
        positions = [(offsets, plan.ownership.proof)] if offsets else []
        outcome = self._transactions.publish(lambda client: self._write(client, plan, firsts), positions)
        if outcome is not Outcome.COMMITTED:
            self.member.check_place()
            return CommitResult(outcome)
        return CommitResult(outcome, [future.value.offset for future in firsts])

    def _write(self, client: KafkaProducer, plan: CommitPlan, firsts: list[Any]) -> list[Any]:
        """Send all. Returns all futures; those of each internal entry's first record go to `firsts`."""
        futures: list[Any] = []
        send_outputs(self._outputs or client, self.names, plan, futures)
        if self._outputs is not None:
            # At least once: outside of the transaction, so a crash before its commit writes them again.
            arrived(self._outputs, futures)
            futures = []
        # The same list: it gets more where the client splits a batch.
        futures.extend(_write_logs(client, self.names, plan, firsts))
        return futures

    # -- The rest -----------------------------------------------------------------------------------------------------

    def committed(self) -> dict[int, Committed]:
        # What this worker itself left open must not hold up the answer.
        self._transactions.ready()
        return super().committed()

    def end_dead_transactions(self) -> None:
        """Those of this application whose owner is no member of its group: it died, or hangs.

        If it lives after all, its next commit is refused, and it joins again.
        """
        with translated("looking for open transactions"):
            found = self._admin.list_transactions(state_filters=["Ongoing"])
        ours = transactional_id(self.names.application, "")
        open_ids = {one.transactional_id for listed in found.values() for one in listed}
        suspects = {name for name in open_ids if name.startswith(ours)} - {self._transactional_id}
        for name in sorted(suspects - self.member.watch.look().members.keys() if suspects else ()):
            Transactions(self.connection, name).close()

    def _blocked(self) -> None:
        self.end_dead_transactions()

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        if log is Log.SPOOL:
            return
        place = self.names.log(log, partition)
        with translated(f"truncating {place.topic}-{place.partition}"):
            first = self._admin_first(place)
            if first < offset:
                self._admin.delete_records({place: offset})

    def _admin_first(self, place: TopicPartition) -> int:
        with self._consumer(place) as stream:
            return int(stream.beginning_offsets([place])[place])

    def close(self) -> None:
        """Leave the group, so that others take over at once, and let go of everything."""
        self._transactions.close()
        if self._outputs is not None:
            discard(self._outputs)
        self.member.leave()
        super().close()


def append(connection: Connection, names: Names, worker: str, plan: CommitPlan) -> None:
    """Commit a plan's catalog and internal entries from outside of the group, beside the workers. Raises RetriableError."""
    # Not an id of a worker: those of workers who are no members are taken for dead.
    transactions = Transactions(connection, f"{names.application}-{worker}")
    try:
        if transactions.publish(lambda client: _write_logs(client, names, plan, []), []) is not Outcome.COMMITTED:
            raise RetriableError("a transaction did not go through", where=names.model, hint="try again")
    finally:
        transactions.close()


def _write_logs(client: KafkaProducer, names: Names, plan: CommitPlan, firsts: list[Any]) -> list[Any]:
    """Catalog and internal entries. Returns all futures; those of each entry's first record go to `firsts`."""
    futures = send_catalog(client, names, plan.catalog)
    for log, partition, records in plan.internal:
        sent = _write_log(client, names.log(log, partition), records)
        firsts.append(sent[0])
        futures += sent
    return futures


def _write_log(client: KafkaProducer, place: TopicPartition, records: Iterable[bytes]) -> list[Any]:
    """Futures of all records; a large entry is sent in portions.

    Raises RetriableError where it takes longer than a transaction may.
    """
    began, n_bytes, total = time.monotonic(), 0, 0
    futures: list[Any] = []
    for record in records:
        futures.append(client.send(place.topic, record, partition=place.partition))
        n_bytes += len(record)
        if n_bytes < _IN_FLIGHT_BYTES:
            continue
        arrived(client, futures)
        total, n_bytes = total + n_bytes, 0
        if time.monotonic() - began > _WRITE_S:
            raise RetriableError(
                f"{total / 1e6:,.0f} MB were written in {_WRITE_S:.0f} s, and a transaction may not take longer",
                where=f"{place.topic}-{place.partition}",
                hint="if this keeps coming back: a new application over more partitions has less in each",
            )
    return futures

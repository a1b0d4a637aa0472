"""The job's store on Kafka: a commit is one transaction.

How transactions are used, and why, is in `transactions`; how the input is shared in `membership`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from streamseg.errors import ConfigError
from streamseg.processing.transport import (
    CommitPlan,
    CommitResult,
    Log,
    Outcome,
    Ownership,
    Polled,
)
from streamseg.transports.kafka.client import (
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
from streamseg.transports.kafka.reader import EMPTY_HEADER, FIRST_HEADER, KafkaReader, columns
from streamseg.transports.kafka.topics import Names, prepare
from streamseg.transports.kafka.transactions import Transactions, arrived

# Transactions older than this that hold up what we wait for are ended.
_STALE_TRANSACTION_MS = 1_000
# Where the broker puts committed offsets.
_OFFSETS_TOPIC = "__consumer_offsets"


class KafkaTransport(KafkaReader):
    """The whole contract."""

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
        fault: Callable[[str], None] = lambda point: None,
    ) -> None:
        """`worker` is the stable id: a restart under the same one takes its place at once.

        `start`: where a new application begins. `skip_lost`: go on where the input begins if committed offsets are gone
        from it. `fault` is called at named points of a commit, for tests that pull cables. Raises as KafkaReader.
        """
        with discarded(admin(connection)) as client:
            prepare(client, names, create=create_topics, replication_factor=replication_factor)
        super().__init__(connection, names, at_least_once=at_least_once)
        self.worker, self._start, self._fault = worker, start, fault
        self._transactional_id = f"{names.application}-{worker}"
        self._transactions = Transactions(connection, self._transactional_id, lambda point: self._fault(point))
        self._outputs = producer(connection, None) if at_least_once else None
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
        counted = self.member.n_partitions
        if counted is not None and counted != self.n_partitions:
            raise ConfigError(
                f"the input has {counted} partitions, the state was written for {self.n_partitions}: partitions were "
                "added, and its customers are now on other partitions than their state",
                where=f"topic {self.names.input}",
                hint="start a new application (another name) from the input's beginning; no state was lost",
            )
        partitions = {p: columns(records, records[-1].offset + 1) for p, records in polled.items()}
        return Polled(partitions, self.member.ownership, False)

    def lag(self) -> int | None:
        """Records of owned partitions that were not polled yet, as far as is known without asking."""
        return self.member.lag()

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
        first_offsets = [future.value.offset for future in firsts] if outcome is Outcome.COMMITTED else ()
        return CommitResult(outcome, first_offsets)

    def _write(self, client: KafkaProducer, plan: CommitPlan, firsts: list[Any]) -> list[Any]:
        """Send all. Returns all futures; those of each internal entry's first record go to `firsts`."""
        futures: list[Any] = []
        if self._outputs is None:
            futures += self._outputs_of(client, plan)
        else:
            # At least once: outside of the transaction, so a crash before its commit writes them again.
            arrived(self._outputs, self._outputs_of(self._outputs, plan))
        for key, value in plan.catalog:
            futures.append(client.send(self.names.catalog, value, key, partition=0))
        for log, partition, records in plan.internal:
            place = self.names.log(log, partition)
            sent = [client.send(place.topic, record, partition=place.partition) for record in records]
            firsts.append(sent[0])
            futures += sent
        return futures

    def _outputs_of(self, client: KafkaProducer, plan: CommitPlan) -> list[Any]:
        futures: list[Any] = []
        send = client.send
        for partition, letters in plan.dead_letters.items():
            topic, first = self.names.dead_letters, plan.published.get(partition, (0, 0))[1]
            for i, letter in enumerate(letters):
                headers = letter.headers() + ([(FIRST_HEADER, b"%d" % first)] if i == 0 else [])
                value = letter.value
                if letter.key is None and value is None:
                    value, headers = b"", [*headers, (EMPTY_HEADER, b"")]
                futures.append(send(topic, value, letter.key, headers=headers, partition=partition))
        for partition, tags in plan.assignments.items():
            topic = self.names.assignments
            first_header = [(FIRST_HEADER, b"%d" % plan.published.get(partition, (0, 0))[0])]
            for i, (customer, value) in enumerate(zip(tags.ids, tags.values, strict=True)):
                futures.append(
                    send(topic, value, customer.encode(), headers=None if i else first_header, partition=partition)
                )
        return futures

    # -- The rest -----------------------------------------------------------------------------------------------------

    def _blocked(self) -> None:
        """The owner before us died in a transaction, or hangs in one: end it in its place.

        If it lives after all, its next commit is refused, and it joins again.
        """
        prefix = f"{self.names.application}-"
        with translated("looking for open transactions"):
            found = self._admin.list_transactions(state_filters=["Ongoing"], duration_filter_ms=_STALE_TRANSACTION_MS)
        stuck = {
            there.transactional_id
            for listed in found.values()
            for there in listed
            if there.transactional_id.startswith(prefix) and there.transactional_id != self._transactional_id
        }
        for transactional_id in sorted(stuck):
            Transactions(self.connection, transactional_id).close()

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
        self.member.leave(self._admin)
        super().close()

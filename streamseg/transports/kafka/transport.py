"""The job's store on Kafka: a commit is one transaction.

kafka-python's transactions lose and leak records unless they are used in just this way:

- A batch of records that expires inside a transaction fails its futures, but `flush`, `send_offsets_to_transaction` and
  `commit_transaction` all succeed: offsets committed, records gone. So every future is kept and asked before the commit.
- After such a failure an epoch bump can leave records of the old transaction to be committed with the next one. So after any
  error the producer is thrown away, and a new one with the same id begins by aborting what the old one left.
- commit has no time-out; when it fails, nobody knows what became of it. So the outcome is UNKNOWN, and the logs decide.
- A group id alone turns off the fencing of zombies. So offsets go with the group's metadata, as they were when the batch
  was polled: asked at commit they would pass for a partition that has moved meanwhile.

The group's listener runs inside `poll` and nowhere else, when no batch is open: partitions that come are paused until the
job has restored their customers and seeks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from streamseg.errors import ConfigError, CorruptedError, FencedError, RetriableError
from streamseg.processing.transport import (
    CommitPlan,
    CommitResult,
    Log,
    Outcome,
    Ownership,
    Polled,
    Records,
)
from streamseg.transports.kafka.client import (
    CLOSE_S,
    Connection,
    ConsumerRebalanceListener,
    KafkaConsumer,
    KafkaProducer,
    MemberToRemove,
    OffsetAndMetadata,
    TopicPartition,
    admin,
    discard,
    discarded,
    group_consumer,
    kafka_errors,
    ours,
    producer,
    translated,
)
from streamseg.transports.kafka.reader import FIRST_HEADER, KafkaReader, columns
from streamseg.transports.kafka.topics import Names, prepare

_FLUSH_S = 10.0
# Transactions older than this that hold up what we wait for are ended.
_STALE_TRANSACTION_MS = 1_000
# Where the broker puts committed offsets.
_OFFSETS_TOPIC = "__consumer_offsets"


class _Paused(ConsumerRebalanceListener):  # type: ignore[misc]
    """Partitions that come give no records until the job seeks."""

    def __init__(self, members: KafkaConsumer) -> None:
        self._members = members

    def on_partitions_assigned(self, assigned: Any) -> None:
        for place in assigned:
            self._members.seek(place, 0)
            self._members.pause(place)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is open: commits happen between polls."""

    def on_partitions_lost(self, lost: Any) -> None:
        """As for revoked ones: what was uncommitted is dropped with the job's tasks."""


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
        with discarded(client := admin(connection)):
            prepare(client, names, create=create_topics, replication_factor=replication_factor)
        super().__init__(connection, names, at_least_once=at_least_once)
        self.worker, self._start, self._skip_lost, self._fault = worker, start, skip_lost, fault
        self._transactional_id = f"{names.application}-{worker}"
        self._transactions = self._new_producer()
        self._outputs = producer(connection, None) if at_least_once else None
        self._members = group_consumer(connection, names.application, self._transactional_id)
        self._members.subscribe([names.input], listener=_Paused(self._members))
        self._ownership = Ownership(0, ())
        self._positions: dict[int, int] = {}

    def _new_producer(self) -> KafkaProducer:
        """Ready, with whatever transaction its predecessor left open aborted."""
        fresh = producer(self.connection, self._transactional_id)
        try:
            with translated(f"transactional id {self._transactional_id}"):
                fresh.init_transactions()
        except BaseException:
            discard(fresh)
            raise
        return fresh

    # -- Input --------------------------------------------------------------------------------------------------------

    def ownership(self) -> Ownership:
        return self._ownership

    def begins(self) -> dict[int, int]:
        """Where an application begins that has committed nothing."""
        places = [TopicPartition(self.names.input, partition) for partition in range(self.n_partitions)]
        with self._consumer(places[0]) as stream, translated(f"reading {self.names.input}"):
            found = stream.end_offsets(places) if self._start == "latest" else stream.beginning_offsets(places)
        return {place.partition: int(offset) for place, offset in found.items()}

    def seek(self, positions: Mapping[int, int]) -> None:
        mine = {place.partition: place for place in self._members.assignment()}
        for partition, position in positions.items():
            # What was lost since is sought in vain; the next poll says so.
            if partition in mine:
                self._members.seek(mine[partition], position)
                self._members.resume(mine[partition])
                self._positions[partition] = position

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        partitions: dict[int, list[Any]] = {}
        count, wait_ms = 0, int(timeout_s * 1000)
        while count < max_records:
            with translated("reading the input"):
                try:
                    found = self._members.poll(timeout_ms=wait_ms, max_records=max_records - count)
                except kafka_errors.OffsetOutOfRangeError:
                    self._pass_lost_input()
                    continue
            if not found:
                break
            for place, records in found.items():
                partitions.setdefault(place.partition, []).extend(records)
                count += len(records)
            wait_ms = 0
        self._look_at_membership()
        mine = self._ownership.partitions
        polled = {p: _columns(records) for p, records in sorted(partitions.items()) if p in mine}
        self._positions |= {p: records.next_offset for p, records in polled.items()}
        return Polled(polled, self._ownership, False)

    def _pass_lost_input(self) -> None:
        """What is to be read next was deleted: stop, or go on behind it, as the settings say."""
        places = list(self._members.assignment())
        begins = self._members.beginning_offsets(places)
        for place in places:
            position = self._members.position(place)
            if position >= begins[place]:
                continue
            if not self._skip_lost:
                raise ConfigError(
                    f"the input lost records that were not read: offset {position} is next, it begins at {begins[place]}",
                    where=f"topic {place.topic}, partition {place.partition}",
                    hint='keep the input longer (retention.ms); to go on behind the loss, set input.lost = "skip"',
                )
            self._members.seek(place, begins[place])

    def _look_at_membership(self) -> None:
        counted = self._members.partitions_for_topic(self.names.input)
        if counted and len(counted) != self.n_partitions:
            raise ConfigError(
                f"the input has {len(counted)} partitions, the state was written for {self.n_partitions}: partitions were "
                "added, and its customers are now on other partitions than their state",
                where=f"topic {self.names.input}",
                hint="start a new application (another name) from the input's beginning; no state was lost",
            )
        with translated("group membership"):
            proof = self._members.group_metadata()
        partitions = tuple(sorted(place.partition for place in self._members.assignment()))
        if (proof.generation_id, partitions) != (self._ownership.generation, self._ownership.partitions):
            self._ownership = Ownership(proof.generation_id, partitions, proof)

    def lag(self) -> int | None:
        """Records of owned partitions that were not polled yet, as far as is known without asking."""
        behind = 0
        for place in self._members.assignment():
            high, position = self._members.highwater(place), self._positions.get(place.partition)
            if high is None or position is None:
                return None
            behind += max(0, int(high) - position)
        return behind

    # -- Commit -------------------------------------------------------------------------------------------------------

    def commit(self, plan: CommitPlan) -> CommitResult:
        try:
            self._fault("before_write")
            if self._outputs is not None:
                self._send_outputs(self._outputs, plan)
            self._transactions.begin_transaction()
            firsts = self._write(plan)
            self._fault("before_commit")
        except BaseException as error:
            self._abort()
            if isinstance(error, kafka_errors.KafkaError | OSError):
                return _aborted(error, self.names.application)
            raise
        try:
            self._transactions.commit_transaction()
        except (kafka_errors.KafkaError, OSError):
            self._replace_producer()
            return CommitResult(Outcome.UNKNOWN)
        self._fault("after_commit")
        return CommitResult(Outcome.COMMITTED, [future.value.offset for future in firsts])

    def _write(self, plan: CommitPlan) -> list[Any]:
        """Send all, and require that all of it arrived. Returns the future of each internal entry's first record."""
        futures: list[Any] = []
        if self._outputs is None:
            futures += self._outputs_of(self._transactions, plan)
        for key, value in plan.catalog:
            futures.append(self._transactions.send(self.names.catalog, value, key, partition=0))
        firsts: list[Any] = []
        for log, partition, records in plan.internal:
            place = self.names.log(log, partition)
            sent = [self._transactions.send(place.topic, record, partition=place.partition) for record in records]
            firsts.append(sent[0])
            futures += sent
        self._fault("before_sync")
        arrived(self._transactions, futures)
        if plan.offsets:
            offsets = {
                TopicPartition(self.names.input, p): OffsetAndMetadata(there.next_offset, there.metadata, -1)
                for p, there in plan.offsets.items()
            }
            self._transactions.send_offsets_to_transaction(offsets, plan.ownership.proof)
        return firsts

    def _send_outputs(self, outputs: KafkaProducer, plan: CommitPlan) -> None:
        """At least once: before the transaction and outside of it, so a crash in between writes them again."""
        arrived(outputs, self._outputs_of(outputs, plan))

    def _outputs_of(self, client: KafkaProducer, plan: CommitPlan) -> list[Any]:
        futures: list[Any] = []
        send = client.send
        for partition, letters in plan.dead_letters.items():
            topic, first = self.names.dead_letters, plan.published.get(partition, (0, 0))[1]
            for i, letter in enumerate(letters):
                headers = letter.headers() + ([(FIRST_HEADER, b"%d" % first)] if i == 0 else [])
                futures.append(send(topic, letter.value, letter.key, headers=headers, partition=partition))
        for partition, tags in plan.assignments.items():
            topic = self.names.assignments
            first_header = [(FIRST_HEADER, b"%d" % plan.published.get(partition, (0, 0))[0])]
            for i, (customer, value) in enumerate(zip(tags.ids, tags.values, strict=True)):
                futures.append(
                    send(topic, value, customer.encode(), headers=None if i else first_header, partition=partition)
                )
        return futures

    def _abort(self) -> None:
        """Whatever is wrong, nothing of the transaction may stay: not even in the client's memory."""
        with suppress(kafka_errors.KafkaError, OSError):
            self._transactions.abort_transaction()
        self._replace_producer()

    def _replace_producer(self) -> None:
        """A new producer with the same id first: it ends what the old one left, then the old one is thrown away.

        Raises RetriableError, FencedError.
        """
        old = self._transactions
        self._transactions = self._new_producer()
        discard(old)

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
            with translated(f"fencing {transactional_id}"):
                fencing = producer(self.connection, transactional_id)
                with discarded(fencing):
                    fencing.init_transactions()

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
        discard(self._transactions)
        if self._outputs is not None:
            discard(self._outputs)
        with suppress(kafka_errors.KafkaError, OSError):
            self._members.close(timeout_ms=int(CLOSE_S * 1000))
            self._admin.remove_group_members(
                self.names.application, [MemberToRemove(group_instance_id=self._transactional_id)]
            )
        super().close()


def _columns(records: list[Any]) -> Records:
    return columns(records, records[-1].offset + 1)


def arrived(client: KafkaProducer, futures: list[Any]) -> None:
    """Raises the first error of a record that did not arrive; `flush` alone would only log it."""
    client.flush(timeout=_FLUSH_S)
    for future in futures:
        if not future.succeeded():
            raise future.exception or kafka_errors.KafkaTimeoutError("a record was not acknowledged in time")


def _aborted(error: BaseException, where: str) -> CommitResult:
    """Nothing was published. Raises where trying again would not help."""
    translated_error = ours(error, where) if isinstance(error, kafka_errors.KafkaError) else RetriableError(str(error))
    if isinstance(translated_error, ConfigError | FencedError | CorruptedError):
        raise translated_error
    return CommitResult(Outcome.ABORTED)

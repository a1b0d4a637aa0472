"""The one way in which transactions are used here.

kafka-python's transactions lose and leak records unless they are used in just this way:

- A batch of records that expires inside a transaction fails its futures, but `flush`, `send_offsets_to_transaction` and
  `commit_transaction` all succeed: offsets committed, records gone. So every future is kept and asked before the commit.
- After such a failure an epoch bump can leave records of the old transaction to be committed with the next one. So after
  any error the producer is spent: nothing is asked of it any more, and a new one with the same id begins by aborting what
  the old one left.
- commit, abort and sending offsets have no time-out, and after a broker's restart they may wait for ever. So they are given
  one here; abort is not used. When a commit fails, nobody knows what became of it: the outcome is UNKNOWN, the logs decide.
- A group id alone turns off the fencing of zombies. So a member of a group commits with the group's metadata, as they were
  when the batch was polled: asked at commit they would pass for a partition that has moved meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from streamseg.engine.ports import Outcome
from streamseg.errors import ConfigError, CorruptedError, FencedError, RetriableError
from streamseg.transports.kafka.client import (
    REQUEST_TIMEOUT_MS,
    Connection,
    ConsumerGroupMetadata,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    discard,
    kafka_errors,
    ours,
    producer,
    translated,
)

_FLUSH_S = 10.0
# What sending offsets and committing may take: in it the client tries again for as long as a request may take, twice.
_ANSWER_S = 2 * REQUEST_TIMEOUT_MS / 1000
Positions = tuple[Mapping[TopicPartition, OffsetAndMetadata], ConsumerGroupMetadata]


def transactional_id(application: str, worker: str) -> str:
    """Also the worker's name in the group. Names of applications have no colon: none begins another's ids."""
    return f"{application}:{worker}"


class Transactions:
    """A transactional producer with a stable id: a new one with the same id takes its place at once."""

    def __init__(
        self, connection: Connection, transactional_id: str, fault: Callable[[str], None] = lambda point: None
    ) -> None:
        """`fault` is called at named points, for tests that pull cables. Raises ConfigError, RetriableError."""
        self._connection, self._id, self._fault = connection, transactional_id, fault
        self._client: KafkaProducer | None = None
        self.ready()

    def ready(self) -> KafkaProducer:
        """A producer that has no transaction open, with whatever its predecessor left open aborted. Raises as the class."""
        if self._client is None:
            fresh = producer(self._connection, self._id)
            try:
                with translated(f"transactional id {self._id}"):
                    fresh.init_transactions()
            except BaseException:
                discard(fresh)
                raise
            self._client = fresh
        return self._client

    def publish(self, write: Callable[[KafkaProducer], list[Any]], positions: Sequence[Positions]) -> Outcome:
        """What `write` sends, of which it returns all futures, with the offsets of groups: all or nothing.

        Raises what `write` raises, and ConfigError or FencedError where trying again would not help: nothing was published.
        """
        client = self.ready()
        try:
            client.begin_transaction()
            futures = write(client)
            self._fault("before_sync")
            arrived(client, futures)
            for offsets, group in positions:
                answered(lambda offsets=offsets, group=group: client.send_offsets_to_transaction(offsets, group))  # type: ignore[misc]
            self._fault("before_commit")
        except BaseException as error:
            self._replace()
            if isinstance(error, kafka_errors.KafkaError | OSError):
                return _aborted(error, self._id)
            raise
        try:
            answered(client.commit_transaction)
        except (kafka_errors.KafkaError, OSError):
            self._replace()
            return Outcome.UNKNOWN
        self._fault("after_commit")
        return Outcome.COMMITTED

    def _replace(self) -> None:
        """The new producer first: it ends what the old one left, then the old one is thrown away.

        A broker that is away now is asked again before the next transaction.
        """
        spent, self._client = self._client, None
        try:
            with suppress(RetriableError):
                self.ready()
        finally:
            if spent is not None:
                discard(spent)

    def close(self) -> None:
        if self._client is not None:
            discard(self._client)


def answered(ask: Callable[[], object], timeout_s: float = _ANSWER_S) -> None:
    """Call what waits for the broker without a limit of its own.

    Raises the client's errors, and KafkaTimeoutError where no answer comes: the thread that waits for it is left alone.
    """
    said: list[BaseException | None] = []

    def run() -> None:
        try:
            ask()
            said.append(None)
        except (kafka_errors.KafkaError, OSError) as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not said:
        raise kafka_errors.KafkaTimeoutError(f"no answer within {timeout_s:.0f} s")
    if said[0] is not None:
        raise said[0]


def arrived(client: KafkaProducer, futures: Sequence[Any]) -> None:
    """Raises the first error of a record that did not arrive; `flush` alone would only log it."""
    deadline = time.monotonic() + _FLUSH_S
    # Of batches that the broker finds too large flush loses track while they are split; the futures do not.
    with suppress(kafka_errors.UnknownError):
        client.flush(timeout=_FLUSH_S)
    for future in futures:
        if not future.is_done:
            future.get(timeout=max(0.0, deadline - time.monotonic()))
    failed = [future.exception for future in futures if not future.succeeded()]
    if failed:
        # One record's fate takes others of the transaction with it: the first cause is the one that somebody can mend.
        raise next((error for error in failed if isinstance(ours(error, ""), ConfigError)), failed[0])


def _aborted(error: BaseException, where: str) -> Outcome:
    """Nothing was published. Raises where trying again would not help."""
    known = ours(error, where) if isinstance(error, kafka_errors.KafkaError) else RetriableError(str(error))
    if isinstance(known, ConfigError | FencedError | CorruptedError):
        raise known
    return Outcome.ABORTED

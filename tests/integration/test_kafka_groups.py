"""The hazards of the hostile store, on a real broker: a group of workers, the order of hazards drawn from a seed.

The same invariant as in tests/property/test_groups.py, with the same names of hazards; a run prints how often each fired.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.config import Config
from streamseg.config.build import connection_of
from streamseg.engine.ports import CommitPlan, CommitResult, Log, Outcome, Ownership, Polled
from streamseg.engine.settings import JobSettings
from streamseg.errors import StreamsegError, TruncatedError
from streamseg.runtime.loop import Loop
from streamseg.transports.kafka.client import Connection, KafkaProducer, admin, discard, discarded, kafka_errors
from streamseg.transports.kafka.topics import prepare
from streamseg.transports.kafka.transactions import Transactions
from streamseg.transports.kafka.transport import KafkaTransport
from tests.groups import RATES, Impatient
from tests.harness import Event, FixedClock, Recorder
from tests.hostile import Dead
from tests.integration.kafka_jobs import Job, OutsideReader, check, stream
from tests.waiting import until

# Those that a test can bring about at a point of a commit; the broker brings about the others by itself.
DRAWN = [name for name in RATES if name not in ("late visibility", "work while somebody reads", "empty look")]
BY_ITSELF = ["offset gap", "rebalance", "deposed owner", "truncation"]
_DEADLINE_S = 240.0


class Faulty(KafkaTransport):
    """A worker's store that strikes as the group says."""

    def __init__(self, group: KafkaGroup, worker: str) -> None:
        self.group = group
        self._own: int | None = None
        self._offsets = False
        super().__init__(group.connection, group.job.names, worker, fault=self._strike)

    def _strike(self, point: str) -> None:
        group = self.group
        if point == "before_sync":
            if group.strike("abort"):
                raise kafka_errors.KafkaError("drawn")
            # A genesis has no offsets yet, and so no owner to depose.
            if self._offsets and group.strike("rebalance in mid-commit"):
                # Nothing else may come between: that this owner is deposed is to be what stops its commit.
                group.rebalance(self)
            elif group.strike("killed before its offsets"):
                self._die()
        elif point == "before_commit":
            if group.strike("killed in a transaction"):
                self._die()
            client = self._transactions.ready()
            if group.strike("fenced in mid-commit"):
                Transactions(self.connection, self._transactional_id).close()
            elif group.strike("unknown, committed"):
                _answer_nothing(client, after=True)
            elif group.strike("unknown, not committed"):
                _answer_nothing(client, after=False)
        elif point == "after_commit" and group.strike("killed after the commit"):
            self._die()

    def _die(self) -> None:
        """As SIGKILL leaves it: the transaction open, the place in the group not given back."""

        def dead() -> KafkaProducer:
            raise Dead(self.worker)

        self.group.remains.append(self._transactions.ready())
        self._transactions._client = None
        self._transactions.ready = dead  # type: ignore[method-assign]
        self.member.consumer.close()
        raise Dead(self.worker)

    def commit(self, plan: CommitPlan) -> CommitResult:
        self._offsets = bool(plan.offsets)
        result = super().commit(plan)
        fired, now = self.group.fired, self.member.consumer.group_metadata().generation_id
        fired["deposed owner"] += result.outcome is Outcome.ABORTED and now > plan.ownership.generation
        if result.outcome is Outcome.COMMITTED and plan.internal and plan.internal[-1][0] is Log.MODEL:
            fired["offset gap"] += self._own is not None and result.first_offsets[-1] > self._own + 1
            self._own = result.first_offsets[-1]
            fired["late visibility"] += not list(super().read(Log.MODEL, 0, self._own))
        return result

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        before: Ownership = self.member.ownership
        polled = super().poll(max_records, timeout_s)
        self.group.fired["rebalance"] += polled.ownership != before
        return polled

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        try:
            yield from super().read(log, partition, start, wait_s)
        except TruncatedError:
            self.group.fired["reader behind truncation"] += 1
            raise

    def end_dead_transactions(self) -> None:
        def open_ids() -> set[str]:
            listed = self._admin.list_transactions(state_filters=["Ongoing"])
            return {one.transactional_id for found in listed.values() for one in found}

        before = open_ids()
        super().end_dead_transactions()
        self.group.fired["transaction of the dead ended"] += len(before - open_ids())

    def delete_below(self, log: Log, partition: int, offset: int) -> None:
        self.group.fired["truncation"] += log is not Log.SPOOL
        super().delete_below(log, partition, offset)


def _answer_nothing(client: KafkaProducer, *, after: bool) -> None:
    """The next commit is done, or not, and its maker does not learn which."""
    really = client.commit_transaction

    def commit() -> None:
        if after:
            really()
        raise kafka_errors.KafkaTimeoutError("drawn")

    client.commit_transaction = commit


class KafkaGroup:
    """Workers of one application, each in a thread of its own: they rebalance only while all of them poll."""

    def __init__(self, job: Job, settings: JobSettings, seed: int) -> None:
        self.job, self.settings = job, settings
        self.connection = connection_of(Config.model_validate(job.config))
        self.fired: Counter[str] = Counter()
        self.remains: list[KafkaProducer] = []
        self.errors: list[BaseException] = []
        self._rng = random.Random(seed)
        self._due = self._rng.sample(DRAWN, len(DRAWN))
        self._lock = threading.Lock()
        self._ends: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def strike(self, hazard: str) -> bool:
        """Each hazard twice at the least: one that is due comes at the first point that it fits, with some time between."""
        with self._lock:
            if hazard not in self._due or self._rng.random() > 0.3:
                return False
            self._due.remove(hazard)
            self.fired[hazard] += 1
            return True

    def start(self, name: str) -> None:
        self._ends[name] = threading.Event()
        thread = threading.Thread(target=self._work, args=(name, self._ends[name]), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, name: str, end: threading.Event) -> None:
        """As a supervisor does: who dies starts again under its name."""
        try:
            while not end.is_set():
                transport = Faulty(self, name)
                loop = Loop(
                    transport, self.settings, FixedClock(), Recorder(), Impatient(), batch_records=100, max_attempts=1_000
                )
                try:
                    while not end.is_set():
                        loop.step()
                    transport.close()
                except Dead:
                    continue
        except (StreamsegError, AssertionError) as error:
            self.errors.append(error)

    def rebalance(self, struck: Faulty) -> None:
        """Somebody leaves or comes while a batch of `struck` is under way; when it next asks, the group has gone on."""
        if struck.worker != "w2" and "w2" in self._ends:
            self._ends.pop("w2").set()
        else:
            self.start("w9")
        before = struck.member.ownership.generation
        deadline = time.monotonic() + 15
        while struck.member.consumer.group_metadata().generation_id == before and time.monotonic() < deadline:
            struck.member.consumer.poll(timeout_ms=100, max_records=1)
        if struck.member.consumer.group_metadata().generation_id == before:
            # The others were busy with their own troubles: another time.
            with self._lock:
                self._due.append("rebalance in mid-commit")

    def run(self, portions: list[list[Event]]) -> list[Event]:
        """Feed portions until every hazard has struck. Returns all that was produced."""
        produced: list[Event] = []
        for name in ("w0", "w1", "w2"):
            self.start(name)
        deadline = time.monotonic() + _DEADLINE_S
        while self._due or portions:
            portion = portions.pop() if portions else stream(60, seed=len(produced))
            produced += portion
            self.job.produce(portion)
            until(lambda: self.job.done() or bool(self.errors), "a portion is done")
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, f"still due: {self._due}, fired {dict(self.fired)}"
        return produced

    def close(self) -> None:
        for end in self._ends.values():
            end.set()
        for thread in self._threads:
            thread.join(30)
        for client in self.remains:
            discard(client)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_group_on_a_real_broker_survives_each_hazard(kafka: str, tmp_path: Path, seed: int) -> None:
    job = Job(kafka, tmp_path, n_partitions=3, model={"segments": 3, "warm_up": 50})
    settings = dataclasses.replace(Config.model_validate(job.config).job_settings(), snapshot_bytes=4_000)
    with discarded(admin(Connection(kafka))) as client:
        prepare(client, job.names, create=True)
    group = KafkaGroup(job, settings, seed)
    outside = OutsideReader(job)
    outside.start()
    try:
        events = stream(1_500, seed=seed, customers=60)
        produced = group.run([events[i::10] for i in range(10)])
        check(job, outside, produced)
    finally:
        group.close()
        outside.close()
    print("hazards fired on a real broker:", ", ".join(f"{name} {group.fired[name]}" for name in sorted(group.fired)))
    assert [name for name in [*DRAWN, *BY_ITSELF] if not group.fired[name]] == []

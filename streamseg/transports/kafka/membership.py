"""A member of a consumer group that reads its share of a topic.

The group's listener runs inside `poll` and nowhere else, when no batch is open: partitions that come are paused until their
reader has restored what it needs and seeks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any

from streamseg.engine.ports import Ownership
from streamseg.errors import ConfigError, FencedError, RetriableError, StreamsegError
from streamseg.transports.kafka.client import (
    CLOSE_S,
    Assignor,
    Connection,
    ConsumerRebalanceListener,
    KafkaConsumer,
    MemberState,
    group_consumer,
    kafka_errors,
    polling,
    translated,
)
from streamseg.transports.kafka.group import Forgotten, GroupWatch

# Between two looks at the group.
_LOOK_S = 5.0
# Between two signs of life of who does not read, and what one takes: in no time at all the client gets nothing done.
_KEEP_S, _SIGN_MS = 1.0, 20
# What a rebalance may take then, and a poll in it.
_JOIN_S, _JOIN_MS = 5.0, 500


class Paused(ConsumerRebalanceListener):  # type: ignore[misc]
    """Partitions that come give no records until somebody seeks.

    Attributes:
        gone: partitions that were let go of, or lost, since somebody asked.
    """

    def __init__(self, members: KafkaConsumer, assignor: Assignor) -> None:
        self._members, self._assignor = members, assignor
        self.gone: set[int] = set()

    def on_partitions_assigned(self, assigned: Any) -> None:
        for place in assigned:
            self._members.seek(place, 0)
            self._members.pause(place)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is open: commits happen between polls."""
        self.gone |= {place.partition for place in revoked}

    def on_partitions_lost(self, lost: Any) -> None:
        """As for revoked ones: what was uncommitted is dropped by whoever polled it.

        The client would claim them when it joins again, and who shares would wait for it to let go of them: for ever.
        """
        self.on_partitions_revoked(lost)
        self._assignor.member_assignment = None


class Member:
    """Reads what it owns of a topic. `ownership` is as of the last poll, and the proof that a commit goes with."""

    def __init__(self, connection: Connection, topic: str, group: str, instance: str, *, skip_lost: bool = False) -> None:
        """`instance` is stable: a restart under the same one comes back without a rebalance, and fences who else has it."""
        self.topic, self.group, self.instance, self._skip_lost = topic, group, instance, skip_lost
        self._assignor = Assignor()
        self.consumer = group_consumer(connection, group, instance, self._assignor)
        self._paused = Paused(self.consumer, self._assignor)
        self.consumer.subscribe([topic], listener=self._paused)
        self.watch = GroupWatch(connection, group)
        self.ownership = Ownership(0, ())
        # Where the next poll goes on, as far as records tell; of which partitions the last one brought some.
        self._positions: dict[int, int] = {}
        self._came: Set[int] = frozenset()
        self._looked = self._kept = time.monotonic()
        # Whether records came since the last look at the group.
        self._heard = False
        self._forgotten = Forgotten()
        self._replaced = False

    @property
    def n_partitions(self) -> int | None:
        """Of the topic, as far as is known."""
        return len(self.consumer.partitions_for_topic(self.topic) or ()) or None

    def seek(self, positions: Mapping[int, int]) -> None:
        mine = {place.partition: place for place in self.consumer.assignment()}
        for partition, position in positions.items():
            # What was lost since is sought in vain; the next poll says so.
            if partition in mine:
                self.consumer.seek(mine[partition], position)
                self.consumer.resume(mine[partition])
                self._positions[partition] = position

    def poll(self, max_records: int, timeout_s: float) -> dict[int, list[Any]]:
        """Records by partition, of partitions that are owned. Waits up to `timeout_s` for the first ones.

        Raises RetriableError where the broker is silent, ConfigError where records that were not read are gone,
        CorruptedError where they are damaged.
        """
        partitions: dict[int, list[Any]] = {}
        count, wait_ms = 0, int(timeout_s * 1000)
        while count < max_records:
            with polling(f"reading {self.topic}"):
                try:
                    found = self.consumer.poll(timeout_ms=wait_ms, max_records=max_records - count)
                except kafka_errors.OffsetOutOfRangeError:
                    self._pass_lost_records()
                    break
            if not found:
                break
            for place, records in found.items():
                partitions.setdefault(place.partition, []).extend(records)
                count += len(records)
            wait_ms = 0
        self._look_at_ownership()
        self._heard |= count > 0
        polled = {p: records for p, records in sorted(partitions.items()) if p in self.ownership.partitions}
        self._positions |= {p: records[-1].offset + 1 for p, records in polled.items()}
        self._came = polled.keys()
        return polled

    def look_at_group(self) -> None:
        """Every few seconds `check_place`, which a poll cannot: it cannot even tell quiet from cut off. Raises as that."""
        if time.monotonic() - self._looked <= _LOOK_S:
            return
        heard, self._heard = self._heard, False
        try:
            self.check_place()
        except RetriableError:
            # Where records come the broker is there, and the next look may find the group.
            if not heard:
                raise

    def check_place(self) -> None:
        """Raises FencedError where another process has this one's place in the group, RetriableError.

        The client only logs that, and would go on without a place, fencing the other's producer again and again.
        """
        self._looked = time.monotonic()
        mine = self.consumer.group_metadata().member_id
        group = self.watch.look()
        there = group.members.get(self.instance)
        if there and mine and there.id != mine == self.consumer.group_metadata().member_id:
            self._replaced = True
            raise FencedError(
                "another worker runs with the same worker.id", where=self.instance, hint="give each worker an id of its own"
            )
        generation, n_partitions = self.ownership.generation, self.n_partitions or 0
        if mine and self._forgotten.falls_to(self.instance, group, generation, self.topic, n_partitions, _LOOK_S):
            self.watch.remove(self.instance, mine)

    def _pass_lost_records(self) -> None:
        """What is to be read next is not there: stop, or go on behind what was deleted, as the settings say."""
        places = [place for place in self.consumer.assignment() if place not in self.consumer.paused()]
        begins, ends = self.consumer.beginning_offsets(places), self.consumer.end_offsets(places)
        for place in places:
            position, where = self.consumer.position(place), f"topic {place.topic}, partition {place.partition}"
            if position > ends[place]:
                raise ConfigError(
                    f"the input ends at offset {ends[place]}, but {position} is to be read next: was it made anew?",
                    where=where,
                    hint="start another application on it; this one's state belongs to what was there before",
                )
            if position < begins[place] and not self._skip_lost:
                raise ConfigError(
                    f"the input lost records that were not read: offset {position} is next, it begins at {begins[place]}",
                    where=where,
                    hint='keep the input longer (retention.ms); to go on behind the loss, set input.lost = "skip"',
                )
            if position < begins[place]:
                self.consumer.seek(place, begins[place])

    def _look_at_ownership(self) -> None:
        """What is owned, with the proof that belongs to it: a join may be under way, which another thread goes on with."""
        with translated("group membership"):
            proof = self.consumer.group_metadata()
        # What was lost and came back is let go of first: somebody else may have had it in between.
        mine = {place.partition for place in self.consumer.assignment()} - self._paused.gone
        partitions = tuple(sorted(mine))
        if partitions and proof.generation_id != self._assignor.generation:
            return
        self._paused.gone = set()
        before = self.ownership.proof
        if before is None or (proof.generation_id, proof.member_id, partitions) != (
            self.ownership.generation,
            before.member_id,  # type: ignore[attr-defined]
            self.ownership.partitions,
        ):
            self.ownership = Ownership(proof.generation_id, partitions, proof)

    def is_joining(self) -> bool:
        """Whether the group is sharing its partitions: until it has, no poll brings records."""
        return self.consumer.group_metadata().state is MemberState.REBALANCING

    def keep_place(self) -> None:
        """Take part in the group without reading: who does not poll for long holds up all others, or loses its place.

        Whatever moves meanwhile the next poll tells; a seek goes on with reading.
        """
        if time.monotonic() - self._kept <= _KEEP_S:
            return
        self._kept = time.monotonic()
        self.consumer.pause(*self.consumer.assignment())
        with translated("group membership"):
            self.consumer.poll(timeout_ms=_SIGN_MS, max_records=1)
            # A join that comes to its end between two polls the client throws away, and begins another one.
            while self.is_joining() and time.monotonic() - self._kept < _JOIN_S:
                self.consumer.poll(timeout_ms=_JOIN_MS, max_records=1)

    def lags(self) -> dict[int, int]:
        """Records of owned partitions that were not polled yet, as far as is known without asking."""
        lags = {}
        for place in self.consumer.assignment() - self.consumer.paused():
            high, partition = self.consumer.highwater(place), place.partition
            if high is None or partition not in self._positions:
                continue
            if int(high) > self._positions[partition] and partition not in self._came:
                self._positions[partition] = self._passed(place)
            lags[partition] = max(0, int(high) - self._positions[partition])
        return lags

    def _passed(self, place: Any) -> int:
        """Where reading goes on: behind the markers that end transactions, which are offsets and no records.

        The client looks at all partitions when it is asked for one, so it is asked only where nothing came.
        """
        position = None
        # Only the lag asks: what is wrong is for the next poll to meet.
        with suppress(StreamsegError), translated(f"position in {self.topic}"):
            position = self.consumer.position(place, timeout_ms=0)
        return max(self._positions[place.partition], int(position or 0))

    def leave(self) -> None:
        """Leave the group, so that others take over at once; but never for another process that has the same name."""
        mine = self.consumer.group_metadata().member_id
        with suppress(kafka_errors.KafkaError, OSError):
            self.consumer.close(timeout_ms=int(CLOSE_S * 1000))
        with suppress(StreamsegError):
            if mine and not self._replaced:
                self.watch.remove(self.instance, mine)
        self.watch.close()

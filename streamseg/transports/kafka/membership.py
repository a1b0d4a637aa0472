"""A member of a consumer group that reads its share of a topic.

The group's listener runs inside `poll` and nowhere else, when no batch is open: partitions that come are paused until their
reader has restored what it needs and seeks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any, NamedTuple

from streamseg.errors import ConfigError, FencedError, StreamsegError
from streamseg.processing.transport import Ownership
from streamseg.transports.kafka.client import (
    CLOSE_S,
    Connection,
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    MemberToRemove,
    group_consumer,
    kafka_errors,
    translated,
)

# Between two looks at the group.
_LOOK_S = 5.0
# A partition that nobody was given in a group that rests for so long stays nobody's.
_FORGOTTEN_S = 4.0


class Paused(ConsumerRebalanceListener):  # type: ignore[misc]
    """Partitions that come give no records until somebody seeks."""

    def __init__(self, members: KafkaConsumer) -> None:
        self._members = members

    def on_partitions_assigned(self, assigned: Any) -> None:
        for place in assigned:
            self._members.seek(place, 0)
            self._members.pause(place)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is open: commits happen between polls."""

    def on_partitions_lost(self, lost: Any) -> None:
        """As for revoked ones: what was uncommitted is dropped by whoever polled it."""


class Place(NamedTuple):
    """A member's id, which a restart changes, and what it was given."""

    id: str
    partitions: tuple[int, ...]


class Group(NamedTuple):
    """Members by their stable names, where they have one; `stable`: not in the middle of sharing the partitions."""

    stable: bool
    members: dict[str, Place]


class Member:
    """Reads what it owns of a topic. `ownership` is as of the last poll, and the proof that a commit goes with."""

    def __init__(self, connection: Connection, topic: str, group: str, instance: str, *, skip_lost: bool = False) -> None:
        """`instance` is stable: a restart under the same one comes back without a rebalance, and fences who else has it."""
        self.topic, self.group, self.instance, self._skip_lost = topic, group, instance, skip_lost
        self.consumer = group_consumer(connection, group, instance)
        self.consumer.subscribe([topic], listener=Paused(self.consumer))
        self.ownership = Ownership(0, ())
        # Where the next poll goes on, as far as records tell; of which partitions the last one brought some.
        self._positions: dict[int, int] = {}
        self._came: Set[int] = frozenset()
        self._looked = time.monotonic()
        # The generation in which a partition was seen to be nobody's, and when first.
        self._forgotten: tuple[int, float] | None = None
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

        Raises RetriableError where the broker is silent, ConfigError where records that were not read are gone.
        """
        partitions: dict[int, list[Any]] = {}
        count, wait_ms = 0, int(timeout_s * 1000)
        while count < max_records:
            with translated(f"reading {self.topic}"):
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
        polled = {p: records for p, records in sorted(partitions.items()) if p in self.ownership.partitions}
        self._positions |= {p: records[-1].offset + 1 for p, records in polled.items()}
        self._came = polled.keys()
        return polled

    def look_at_group(self, client: KafkaAdminClient) -> None:
        """Every few seconds `check_place`, which a poll cannot: it cannot even tell quiet from cut off. Raises as that."""
        if time.monotonic() - self._looked > _LOOK_S:
            self.check_place(client)

    def check_place(self, client: KafkaAdminClient) -> None:
        """Raises FencedError where another process has this one's place in the group, RetriableError.

        The client only logs that, and would go on without a place, fencing the other's producer again and again.
        """
        self._looked = time.monotonic()
        group = group_of(client, self.group)
        there = group.members.get(self.instance)
        mine = self.consumer.group_metadata().member_id
        if there and mine and there.id != mine:
            self._replaced = True
            raise FencedError(
                "another worker runs with the same worker.id", where=self.instance, hint="give each worker an id of its own"
            )
        if self._is_to_share_anew(group):
            self._forgotten = None
            with translated(f"group {self.group}"):
                client.remove_group_members(self.group, [MemberToRemove(group_instance_id=self.instance)])

    def _is_to_share_anew(self, group: Group) -> bool:
        """Whether this member is to leave and come back, so that a partition that is nobody's is given to somebody.

        A partition moves in two steps: its owner lets go of it and joins again, whereupon another one gets it. An owner that
        is killed in between and comes back under its name has nothing to let go of: the broker gives it what the first step
        left it, and nobody takes the second. The one that owns least does it for all.
        """
        shared = {partition for member in group.members.values() for partition in member.partitions}
        if not group.stable or self.instance not in group.members or len(shared) >= (self.n_partitions or 0):
            self._forgotten = None
            return False
        generation, now = self.ownership.generation, time.monotonic()
        if self._forgotten is None or self._forgotten[0] != generation:
            self._forgotten = generation, now
        least = min(group.members, key=lambda name: (len(group.members[name].partitions), name))
        return least == self.instance and now - self._forgotten[1] > _FORGOTTEN_S

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
        with translated("group membership"):
            proof = self.consumer.group_metadata()
        partitions = tuple(sorted(place.partition for place in self.consumer.assignment()))
        if (proof.generation_id, partitions) != (self.ownership.generation, self.ownership.partitions):
            self.ownership = Ownership(proof.generation_id, partitions, proof)

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

    def leave(self, admin: KafkaAdminClient) -> None:
        """Leave the group, so that others take over at once; but never for another process that has the same name."""
        with suppress(kafka_errors.KafkaError, OSError):
            self.consumer.close(timeout_ms=int(CLOSE_S * 1000))
        with suppress(kafka_errors.KafkaError, OSError):
            if not self._replaced:
                admin.remove_group_members(self.group, [MemberToRemove(group_instance_id=self.instance)])


def group_of(client: KafkaAdminClient, group: str) -> Group:
    """A group of a single topic as the broker knows it. Raises RetriableError."""
    with translated(f"group {group}"):
        found = client.describe_groups([group])[group]
    members = {
        member["group_instance_id"] or member["member_id"]: Place(member["member_id"], _given(member["member_assignment"]))
        for member in found["members"]
    }
    return Group(found["group_state"] == "Stable", members)


def _given(assignment: Any) -> tuple[int, ...]:
    """Nothing where the assignment is none yet, or not one of a consumer."""
    topics = assignment["assigned_partitions"] if isinstance(assignment, dict) else ()
    return tuple(partition for topic in topics for partition in topic["partitions"])

"""A member of a consumer group that reads its share of a topic.

The group's listener runs inside `poll` and nowhere else, when no batch is open: partitions that come are paused until their
reader has restored what it needs and seeks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any

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

# A broker that sent no records for so long is asked whether it is there: a poll alone cannot tell quiet from cut off.
_SILENCE_S = 5.0


class _Paused(ConsumerRebalanceListener):  # type: ignore[misc]
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


class Member:
    """Reads what it owns of a topic. `ownership` is as of the last poll, and the proof that a commit goes with."""

    def __init__(self, connection: Connection, topic: str, group: str, instance: str, *, skip_lost: bool = False) -> None:
        """`instance` is stable: a restart under the same one comes back without a rebalance, and fences who else has it."""
        self.topic, self.group, self.instance, self._skip_lost = topic, group, instance, skip_lost
        self.consumer = group_consumer(connection, group, instance)
        self.consumer.subscribe([topic], listener=_Paused(self.consumer))
        self.ownership = Ownership(0, ())
        # Where the next poll goes on, as far as records tell; of which partitions the last one brought some.
        self._positions: dict[int, int] = {}
        self._came: Set[int] = frozenset()
        self._heard = time.monotonic()
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
        if count:
            self._heard = time.monotonic()
        polled = {p: records for p, records in sorted(partitions.items()) if p in self.ownership.partitions}
        self._positions |= {p: records[-1].offset + 1 for p, records in polled.items()}
        self._came = polled.keys()
        return polled

    def silent(self) -> bool:
        """Whether nothing was heard for so long that somebody should ask; then the next time is as far away again."""
        if time.monotonic() - self._heard <= _SILENCE_S:
            return False
        self._heard = time.monotonic()
        return True

    def check_place(self, client: KafkaAdminClient) -> None:
        """Raises FencedError where another process has this one's place in the group, RetriableError.

        The client only logs that, and would go on without a place, fencing the other's producer again and again.
        """
        there = members_of(client, self.group).get(self.instance)
        mine = self.consumer.group_metadata().member_id
        if there and mine and there != mine:
            self._replaced = True
            raise FencedError(
                "another worker runs with the same worker.id", where=self.instance, hint="give each worker an id of its own"
            )

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


def members_of(client: KafkaAdminClient, group: str) -> dict[str, str]:
    """Member ids of a group by their stable names. Raises RetriableError."""
    with translated(f"group {group}"):
        members = client.describe_groups([group])[group]["members"]
    return {member["group_instance_id"]: member["member_id"] for member in members if member["group_instance_id"]}

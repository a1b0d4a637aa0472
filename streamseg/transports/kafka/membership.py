"""A member of a consumer group that reads its share of a topic.

The group's listener runs inside `poll` and nowhere else, when no batch is open: partitions that come are paused until their
reader has restored what it needs and seeks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from streamseg.errors import ConfigError
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
        self._positions: dict[int, int] = {}
        self._heard = time.monotonic()

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
                    continue
            if not found:
                break
            for place, records in found.items():
                partitions.setdefault(place.partition, []).extend(records)
                count += len(records)
            wait_ms = 0
        self._look_at_ownership()
        self._listen(heard=count > 0)
        polled = {p: records for p, records in sorted(partitions.items()) if p in self.ownership.partitions}
        self._positions |= {p: records[-1].offset + 1 for p, records in polled.items()}
        return polled

    def _listen(self, *, heard: bool) -> None:
        if not heard and time.monotonic() - self._heard > _SILENCE_S:
            with translated(f"reading {self.topic}"):
                self.consumer.end_offsets(list(self.consumer.assignment()))
            heard = True
        if heard:
            self._heard = time.monotonic()

    def _pass_lost_records(self) -> None:
        """What is to be read next was deleted: stop, or go on behind it, as the settings say."""
        places = list(self.consumer.assignment())
        begins = self.consumer.beginning_offsets(places)
        for place in places:
            position = self.consumer.position(place)
            if position >= begins[place]:
                continue
            if not self._skip_lost:
                raise ConfigError(
                    f"the input lost records that were not read: offset {position} is next, it begins at {begins[place]}",
                    where=f"topic {place.topic}, partition {place.partition}",
                    hint='keep the input longer (retention.ms); to go on behind the loss, set input.lost = "skip"',
                )
            self.consumer.seek(place, begins[place])

    def _look_at_ownership(self) -> None:
        with translated("group membership"):
            proof = self.consumer.group_metadata()
        partitions = tuple(sorted(place.partition for place in self.consumer.assignment()))
        if (proof.generation_id, partitions) != (self.ownership.generation, self.ownership.partitions):
            self.ownership = Ownership(proof.generation_id, partitions, proof)

    def lag(self) -> int | None:
        """Records of owned partitions that were not polled yet, as far as is known without asking."""
        behind = 0
        for place in self.consumer.assignment():
            high, position = self.consumer.highwater(place), self._positions.get(place.partition)
            if high is None or position is None:
                return None
            behind += max(0, int(high) - position)
        return behind

    def leave(self, admin: KafkaAdminClient) -> None:
        """Leave the group, so that others take over at once."""
        with suppress(kafka_errors.KafkaError, OSError):
            self.consumer.close(timeout_ms=int(CLOSE_S * 1000))
            admin.remove_group_members(self.group, [MemberToRemove(group_instance_id=self.instance)])

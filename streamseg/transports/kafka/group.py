"""A consumer group as the broker knows it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from streamseg.errors import RetriableError, StreamsegError
from streamseg.transports.kafka.client import (
    Connection,
    KafkaAdminClient,
    MemberToRemove,
    admin,
    discard,
    kafka_errors,
    translated,
)

# A partition that nobody was given in a group that rests for so long stays nobody's.
_FORGOTTEN_S = 4.0


class Place(NamedTuple):
    """A member's id, which a restart changes, and what it was given: topics and their partitions."""

    id: str
    shares: frozenset[tuple[str, int]]


class Group(NamedTuple):
    """Members by their stable names, where they have one; `stable`: not in the middle of sharing the partitions."""

    stable: bool
    members: dict[str, Place]


def group_of(client: KafkaAdminClient, group: str) -> Group:
    """A group of nobody where there is none. Raises RetriableError."""
    with translated(f"group {group}"):
        found = client.describe_groups([group])[group]
    if found["error"] is not None and kafka_errors.GroupIdNotFoundError.__name__ not in found["error"]:
        raise RetriableError(f"Kafka: {found['error']}", where=f"group {group}")
    members = {
        member["group_instance_id"] or member["member_id"]: Place(member["member_id"], _given(member["member_assignment"]))
        for member in found["members"]
    }
    return Group(found["group_state"] == "Stable", members)


def _given(assignment: Any) -> frozenset[tuple[str, int]]:
    """Nothing where the assignment is none yet, or not one of a consumer."""
    topics = assignment["assigned_partitions"] if isinstance(assignment, dict) else ()
    return frozenset((topic["topic"], partition) for topic in topics for partition in topic["partitions"])


class GroupWatch:
    """Looks at a group, and takes members out of it."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection, self._group = connection, group
        self._client: KafkaAdminClient | None = None

    def _asked(self) -> KafkaAdminClient:
        if self._client is None:
            self._client = admin(self._connection)
        return self._client

    def look(self) -> Group:
        """Raises StreamsegError."""
        try:
            return group_of(self._asked(), self._group)
        except StreamsegError:
            # A client never asks again which broker knows the group: another one does.
            self.close()
            raise

    def remove(self, instance: str, member_id: str) -> None:
        """Nothing where another process has the name by now. Raises StreamsegError."""
        with translated(f"group {self._group}"):
            self._asked().remove_group_members(self._group, [MemberToRemove(member_id, instance)])

    def close(self) -> None:
        if self._client is not None:
            discard(self._client)
        self._client = None


class Forgotten:
    """Tells when a partition that is nobody's is to be given to somebody, by sharing all anew.

    A partition moves in two steps: its owner lets go of it and joins again, whereupon another one gets it. An owner that is
    killed in between and comes back under its name has nothing to let go of: the broker gives it what the first step left
    it, and nobody takes the second.
    """

    def __init__(self) -> None:
        # The generation in which a partition was seen to be nobody's, and when first.
        self._seen: tuple[int, float] | None = None

    def falls_to(
        self, instance: str, group: Group, generation: int, topic: str, n_partitions: int, patience_s: float
    ) -> bool:
        """Whether this member is to leave and come back. The one that owns least does so, the next where that does not.

        `patience_s`: what each waits for the one before.
        """
        shared = {share for member in group.members.values() for share in member.shares if share[0] == topic}
        if not group.stable or instance not in group.members or len(shared) >= n_partitions:
            self._seen = None
            return False
        now = time.monotonic()
        if self._seen is None or self._seen[0] != generation:
            self._seen = generation, now
        ranked = sorted(group.members, key=lambda name: (len(group.members[name].shares), name))
        return now - self._seen[1] > _FORGOTTEN_S + patience_s * ranked.index(instance)

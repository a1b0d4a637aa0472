"""Shares of the input in a group whose members die at the worst moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.transports.kafka.client import Connection, KafkaAdminClient, admin, discarded
from streamseg.transports.kafka.membership import Group, Member, group_of
from tests.broker import new_name
from tests.integration.kafka_jobs import until
from tests.stores import create_input, names_of

_ROOT = Path(__file__).parents[2]
_ALL = [0, 1, 2, 3]


class Frails:
    """Processes that are killed when they have let go of a partition."""

    def __init__(self, servers: str, topic: str, group: str) -> None:
        self._arguments = [servers, topic, group]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.integration.frail_member", *self._arguments, name]
        self.processes[name] = subprocess.Popen(command, cwd=_ROOT)

    def killed(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(name="client")
def _client(kafka: str) -> Iterator[KafkaAdminClient]:
    with discarded(admin(Connection(kafka))) as client:
        yield client


def given(group: Group) -> list[int]:
    return sorted(partition for place in group.members.values() for partition in place.partitions)


def test_what_its_owner_let_go_of_and_died_before_it_joined_again_is_given_to_somebody(
    kafka: str, client: KafkaAdminClient
) -> None:
    names = names_of(new_name("group"))
    create_input(kafka, names, len(_ALL))
    frails = Frails(kafka, names.input, names.application)
    third = Member(Connection(kafka), names.input, names.application, "w2")

    def group() -> Group:
        return group_of(client, names.application)

    def halved() -> bool:
        return sorted(len(place.partitions) for place in group().members.values()) == [2, 2]

    def killed() -> list[str]:
        third.poll(1, 0.05)
        return frails.killed()

    def shared() -> bool:
        third.poll(1, 0.05)
        third.look_at_group(client)
        return group().stable and given(group()) == _ALL

    try:
        for name in ("w0", "w1"):
            frails.start(name)
        until(halved, "two share the partitions")
        until(killed, "one has let go of a partition for the third")
        (victim,) = frails.killed()
        # The hole: were it not there, this test would prove nothing.
        assert len(given(group())) == len(_ALL) - 1
        frails.start(victim)
        until(shared, "each partition is somebody's", 60)
        assert third.ownership.partitions or group().members["w2"].partitions
    finally:
        frails.close()
        third.leave(client)

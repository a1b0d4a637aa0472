"""Shares of the input in a group whose members die at the worst moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.transports.kafka.client import Connection, KafkaAdminClient, MemberToRemove, admin, discarded
from streamseg.transports.kafka.group import Group, group_of
from streamseg.transports.kafka.membership import Member
from streamseg.transports.kafka.topics import Names
from tests.broker import new_name
from tests.processes import Process
from tests.stores import create_input, names_of, produce
from tests.waiting import until

_ROOT = Path(__file__).parents[2]
_ALL = [0, 1, 2, 3]


class Frails:
    """Processes that are killed when they have let go of a partition."""

    def __init__(self, servers: str, topic: str, group: str, directory: Path) -> None:
        self._arguments, self._directory = [servers, topic, group], directory
        self.processes: dict[str, Process] = {}

    def start(self, name: str) -> None:
        arguments = [*self._arguments, name, str(self._directory)]
        self.processes[name] = Process("tests.integration.frail_member", *arguments, cwd=_ROOT)

    def owned(self) -> list[list[str]]:
        """As the members know: the group has shared before they have heard of it."""
        return [(self._directory / name).read_text().split() for name in self.processes if (self._directory / name).exists()]

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
    return sorted(partition for place in group.members.values() for _, partition in place.shares)


def test_what_its_owner_let_go_of_and_died_before_it_joined_again_is_given_to_somebody(
    kafka: str, client: KafkaAdminClient, tmp_path: Path
) -> None:
    names = names_of(new_name("group"))
    create_input(kafka, names, len(_ALL))
    frails = Frails(kafka, names.input, names.application, tmp_path)
    third = Member(Connection(kafka), names.input, names.application, "w2")

    def group() -> Group:
        return group_of(client, names.application)

    def halved() -> bool:
        # A third that comes before both have heard of their share gets one that nobody had to let go of.
        given_out = sorted(len(place.shares) for place in group().members.values())
        return given_out == [2, 2] == [len(owned) for owned in frails.owned()]

    def killed() -> list[str]:
        third.poll(1, 0.5)
        return frails.killed()

    def shared() -> bool:
        third.poll(1, 0.5)
        third.look_at_group()
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
        assert third.ownership.partitions or group().members["w2"].shares
    finally:
        frails.close()
        third.leave()


class Polling(threading.Thread):
    """A member that polls all the while, as in a process of its own: a join that ends between two polls is begun anew."""

    def __init__(self, member: Member) -> None:
        super().__init__(daemon=True)
        self.member, self.seen = member, [member.ownership.partitions]
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            self.member.poll(1, 0.5)
            if self.seen[-1] != self.member.ownership.partitions:
                self.seen.append(self.member.ownership.partitions)

    def close(self) -> None:
        self._ended.set()
        self.join(timeout=30)
        self.member.leave()


def two(servers: str, names: Names) -> list[Member]:
    create_input(servers, names, len(_ALL))
    return [Member(Connection(servers), names.input, names.application, name) for name in ("w0", "w1")]


def test_who_lost_its_place_claims_nothing_when_it_comes_back(kafka: str, client: KafkaAdminClient) -> None:
    """The client would go on to claim what it had, and who shares would wait for it to let go of that."""
    names = names_of(new_name("group"))
    one, other = two(kafka, names)
    first = Polling(one)
    until(lambda: first.seen[-1] == tuple(_ALL), "one has all")
    second = Polling(other)
    try:
        client.remove_group_members(names.application, [MemberToRemove(group_instance_id="w0")])
        until(lambda: [len(member.seen[-1]) for member in (first, second)] == [2, 2], "each has half", 30)
        assert sorted(first.seen[-1] + second.seen[-1]) == _ALL
        everything = first.seen.index(tuple(_ALL))
        assert () in first.seen[everything:], "what it had was let go of, as others may have had it meanwhile"
    finally:
        first.close()
        second.close()


def test_who_keeps_its_place_holds_nobody_up_and_reads_nothing(kafka: str) -> None:
    names = names_of(new_name("group"))
    restoring, other = two(kafka, names)
    produce(kafka, names.input, 0, [(b"a", b"1", None)])
    until(lambda: restoring.poll(1, 0.5) == {} and list(restoring.ownership.partitions) == _ALL, "one has all")
    restoring.seek(dict.fromkeys(_ALL, 0))
    before = restoring.ownership
    second = Polling(other)

    def other_has_its_share() -> bool:
        restoring.keep_place()
        return len(second.seen[-1]) == 2

    try:
        until(other_has_its_share, "the other one has its share", 30)
        assert restoring.ownership == before, "polls alone tell of it"
        until(lambda: restoring.poll(1, 0.5) == {} and len(restoring.ownership.partitions) == 2, "it is told", 30)
        assert 0 in restoring.ownership.partitions
        restoring.seek(dict.fromkeys(restoring.ownership.partitions, 0))
        until(lambda: restoring.poll(1, 0.5).keys() == {0}, "what was there all the while is read")
    finally:
        second.close()
        restoring.leave()


def test_a_join_that_a_poll_ended_in_is_not_forgotten(kafka: str) -> None:
    """It would be where the topic's partitions become known after the first join: about every other time."""
    names = names_of(new_name("group"))
    create_input(kafka, names, len(_ALL))
    for i in range(8):
        member = Member(Connection(kafka), names.input, f"{names.application}-{i}", "w0")
        try:
            until(lambda: member.poll(1, 0.01) == {} and list(member.ownership.partitions) == _ALL, "it has all", 20)  # noqa: B023
        finally:
            member.leave()

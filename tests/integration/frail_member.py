"""A member of a group that is killed between letting go of a partition and joining again.

`python -m tests.integration.frail_member SERVERS TOPIC GROUP INSTANCE DIRECTORY`: what it owns is the text of the file
INSTANCE in DIRECTORY.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from streamseg.transports.kafka.client import Assignor, Connection
from streamseg.transports.kafka.membership import Member, Paused


class Frail(Paused):
    def on_partitions_revoked(self, revoked: Any) -> None:
        # Of four partitions one moves for the third member; two do for the second, which is to live.
        if len(revoked) == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    servers, topic, group, instance, directory = sys.argv[1:]
    member = Member(Connection(servers), topic, group, instance)
    member.consumer.subscribe([topic], listener=Frail(member.consumer, Assignor()))
    owned: tuple[int, ...] = ()
    while True:
        member.poll(1, 0.05)
        member.look_at_group()
        if owned != member.ownership.partitions:
            owned = member.ownership.partitions
            (Path(directory) / instance).write_text(" ".join(map(str, owned)))


if __name__ == "__main__":
    main()

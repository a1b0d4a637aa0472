"""A real process that runs the job on files and is killed at a named point of a commit.

    python -m tests.integration.worker CONFIG_JSON POINT CALL

Prints a line for each commit. POINT may be "none".
"""

from __future__ import annotations

import json
import os
import signal
import sys

from streamseg.application.wiring import App
from streamseg.config import Config
from streamseg.engine.events import BatchCommitted, Observation
from tests.harness import FixedClock


class Progress:
    def observe(self, event: Observation) -> None:
        if isinstance(event, BatchCommitted):
            print(max(event.positions.values()), flush=True)


def main() -> None:
    config, point, call = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    left = [call]

    def fault(name: str) -> None:
        if name == point:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    App(Config.model_validate(config), Progress(), clock=FixedClock(), fault=fault).run()


if __name__ == "__main__":
    main()

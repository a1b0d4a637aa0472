"""Queries of Structured Streaming, one after the other in one session: `python -m tests.integration.spark_queries PLAN`.

PLAN is a JSON file: {"spark": {key: value}, "queries": [{"config": {}, "checkpoint": "", ...}]}. Each query reads what is
there, and writes a line of JSON: how it ended, in {"failed": null} or {"failed": text}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from streamseg.config import Config
from streamseg.errors import StreamsegError
from streamseg.spark import segment_stream
from streamseg.spark.session import error_in, open_session, run_query


class Pulled(Exception):
    """A driver's cable."""


def pull(point: str, turn: int, *, at: list[str], how: str, marks: str) -> None:
    """Each of the points once, and not at the turn before the first."""
    mark = Path(marks) / point
    if point not in at or turn == 0 or mark.exists():
        return
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    if how == "raise":
        raise Pulled(f"{point} of turn {turn}")
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(point: str, turn: int) -> None:
    pass


def _fault(one: dict[str, Any]) -> Callable[[str, int], None]:
    given = one.get("fault")
    return nothing if given is None else partial(pull, **given)


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    spark = open_session("tests", plan["spark"])
    for one in plan["queries"]:
        failed: str | None = None
        try:
            writer = segment_stream(
                spark,
                Config.model_validate(one["config"]),
                checkpoint=one["checkpoint"],
                transactions=one.get("transactions", True),
                batch_records=one.get("batch_records", 4_000),
                fault=_fault(one),
            )
            run_query(writer.trigger(availableNow=True), Event(), None)
        except StreamsegError as error:
            failed = str(error)
        except Exception as error:  # noqa: BLE001 - what it is, the test reads
            failed = str(error_in(error))
        print(json.dumps({"failed": failed}), flush=True)


if __name__ == "__main__":
    main()

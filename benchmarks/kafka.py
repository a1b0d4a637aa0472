"""The job on Kafka against a bare pass-through, in one run on one broker.

    python -m benchmarks.kafka [--servers SERVERS] [rates] [latency] [restart] [workers] [memory]

The pass-through is what anyone would write with the same client: poll, send each record on unchanged, commit in transactions
of 5,000 with the offsets. Both read the same input topic and write to topics of the same kind; they are timed in turn, and
the ratio of the medians is printed: the machine is shared, so only ratios mean anything. Without servers a broker is
started as for the tests. Without parts all but `memory` run, which takes ten million events and about ten minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.kafka_processes import latency, memory, restart, workers
from benchmarks.kafka_rates import new_names, pass_through, rates
from streamseg.transports.kafka.client import (
    Connection,
)
from tests.broker import Broker

PARTS: dict[str, Callable[[str], None]] = {
    "rates": rates,
    "latency": latency,
    "restart": restart,
    "workers": workers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--servers")
    parser.add_argument("--bare", nargs=2, metavar=("INPUT", "OUTPUT"), help="only the pass-through, until it is killed")
    arguments = parser.parse_args()
    if arguments.bare:
        names = new_names()._replace(input=arguments.bare[0], assignments=arguments.bare[1])
        pass_through(Connection(arguments.servers), names, float("inf"))
        return
    broker = None if arguments.servers else Broker(Path(tempfile.mkdtemp())).start()
    try:
        for part in arguments.parts or [name for name in PARTS if name != "memory"]:
            PARTS[part](arguments.servers or broker.address)  # type: ignore[union-attr]
    finally:
        if broker is not None:
            broker.stop()


if __name__ == "__main__":
    main()

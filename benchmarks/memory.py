"""Memory and growth: bytes for each customer, restore time, cost for each event as customers grow.

    python -m benchmarks.memory

Peak memory is that of whole processes, growth included, over the same process with ten customers.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed import BATCH, FEATURES, FixedClock, K, Quiet
from streamseg.application.wiring import App, open_reader, restored
from streamseg.config import Config
from streamseg.engine.ports import Log, LogReader
from streamseg.formats.frames import entries

MILLION = 1_000_000
REPEATS = 3


def write_events(path: Path, n_events: int, n_customers: int, seed: int = 0) -> None:
    """Each customer once, in random order; then random ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_customers)[:n_events]
    who = np.concatenate([order, rng.integers(0, n_customers, n_events - len(order))])
    with path.open("wb") as file:
        for first in range(0, n_events, 100_000):
            part = who[first : first + 100_000]
            group = part % K
            age, income, bought = 20 + 12 * group, 20_000 + 15_000 * ((2 * group) % K), 3 * group
            noise = rng.normal(size=(3, len(part)))
            rows = zip(part.tolist(), (age + noise[0]).tolist(), (income + 900 * noise[1]).tolist(),
                       (bought + 0.4 * noise[2]).tolist(), strict=True)  # fmt: skip
            template = b'{"customer_id":"c%d","event_time":%d,"' + b'":%.6f,"'.join(name.encode() for name in FEATURES)
            template += b'":%.6f}\n'
            file.write(b"".join(template % (c, 1_700_000_000_000 + first + i, *row) for i, (c, *row) in enumerate(rows)))


def config_for(events: Path, directory: Path) -> Config:
    return Config.model_validate(
        {
            "input": {"path": str(events), "batch_records": BATCH},
            "output": {"path": str(directory / "tags.jsonl")},
            "embedded": {"path": str(directory / "state.db")},
            "model": {"segments": K},
        }
    )


def child(events: str, directory: str) -> None:
    """Runs the job; prints its peak memory in bytes, and the seconds for each event of its last half."""
    config = config_for(Path(events), Path(directory))
    app = App(config, Quiet(), clock=FixedClock())
    app.run()
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def run_child(n_events: int, n_customers: int, directory: Path) -> float:
    """Peak memory in bytes of a run."""
    events, state = directory / f"events-{n_events}-{n_customers}.jsonl", directory / f"run-{n_events}-{n_customers}"
    state.mkdir()
    write_events(events, n_events, n_customers)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "child", str(events), str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak"])


def restore_ratio(directory: Path) -> float:
    """Restoring a million customers, against reading the same bytes and building a dict of their ids."""
    state = directory / f"run-{MILLION}-{MILLION}"
    config = config_for(directory / f"events-{MILLION}-{MILLION}.jsonl", state)
    ours, theirs = [], []
    for _ in range(REPEATS):
        reader = open_reader(config)
        began = time.perf_counter()
        job = restored(config, reader)
        ours.append(time.perf_counter() - began)
        assert job.tasks[0].table.n_customers == MILLION
        started = job.tasks[0].snapshots[-1].offset if job.tasks[0].snapshots else 0
        del job
        began = time.perf_counter()
        index = index_of_ids(reader, started)
        theirs.append(time.perf_counter() - began)
        assert len(index) == MILLION
        reader.close()
    print(f"restore of a million customers {statistics.median(ours):.2f} s, peer {statistics.median(theirs):.2f} s")
    return statistics.median(ours) / statistics.median(theirs)


def index_of_ids(reader: LogReader, start: int) -> dict[str, int]:
    """The peer: read the same records, take the ids out of them, build a dict."""
    index: dict[str, int] = {}
    for entry in entries(reader.read(Log.CUSTOMERS, 0, start), "customers"):
        value = msgspec.msgpack.decode(entry.payload)
        rows = value.get("rows") or value.get("change", {}).get("touched") or {"new_ids": []}
        index.update(zip(rows["new_ids"], range(len(index), MILLION), strict=False))
    return index


def seconds_per_event(n_customers: int, directory: Path) -> Iterator[float]:
    """Of events of known customers, on a state that holds them all."""
    events, state = directory / f"known-{n_customers}.jsonl", directory / f"flat-{n_customers}"
    state.mkdir()
    write_events(events, n_customers, n_customers)
    config = config_for(events, state)
    App(config, Quiet(), clock=FixedClock()).run()
    for repeat in range(REPEATS):
        more = directory / f"more-{n_customers}-{repeat}.jsonl"
        write_events(more, n_customers + 200_000, n_customers, repeat)
        lines = more.read_bytes().splitlines(keepends=True)[n_customers:]
        more.write_bytes(b"".join(lines))
        app = App(config.model_copy(update={"input": config.input.model_copy(update={"path": str(more)})}), Quiet(),
                  clock=FixedClock())  # fmt: skip
        app.loop._restore()
        began = time.perf_counter()
        while not app.loop._turn():
            pass
        yield (time.perf_counter() - began) / len(lines)
        app.transport.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        empty = run_child(20_000, 10, directory)
        full = run_child(MILLION, MILLION, directory)
        print(f"peak memory for each of a million customers: {(full - empty) / MILLION:.0f} bytes (at most 300)")
        print(f"restore over read and index: ratio {restore_ratio(directory):.2f} (at most 2)")
        once, often = run_child(100_000, 20_000, directory), run_child(MILLION, 20_000, directory)
        print(f"peak memory after ten times more events of the same customers: ratio {often / once:.3f} (flat)")
        costs = {n: statistics.median(seconds_per_event(n, directory)) for n in (10_000, 100_000, MILLION)}
        for n, cost in costs.items():
            print(f"{n:>9,} customers: {cost * 1e6:.2f} us for each event, ratio {cost / costs[10_000]:.2f} (within 1.2)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:4])
    else:
        main()

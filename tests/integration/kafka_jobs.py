"""Real workers, a real broker, and an outside reader: what the fault tests are made of."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from confluent_kafka import Consumer

from streamseg.application.wiring import open_reader
from streamseg.config import Config
from streamseg.engine.verify import verified
from streamseg.engine.verify_partition import Report
from streamseg.errors import ConfigError
from tests.broker import new_name
from tests.harness import BAD, Event, FixedClock, event, partition_of, shoppers
from tests.processes import Process
from tests.stores import create_input, names_of, produce
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Job:
    """An application on a broker: its input, its configuration, its workers."""

    def __init__(self, servers: str, directory: Path, n_partitions: int = 4, **sections: dict[str, Any]) -> None:
        self.servers, self.directory, self.n_partitions = servers, directory, n_partitions
        self.names = names_of(new_name("job"))
        create_input(servers, self.names, n_partitions)
        self.config: dict[str, Any] = {
            "application": self.names.application,
            "input": {"transport": "kafka", "topic": self.names.input, "batch_records": 200} | sections.pop("input", {}),
            "output": {
                "topic": self.names.assignments,
                "catalog_topic": self.names.catalog,
                "dead_letter_topic": self.names.dead_letters,
            }
            | sections.pop("output", {}),
            "kafka": {"bootstrap_servers": servers} | sections.pop("kafka", {}),
            "model": {"segments": 3, "warm_up": 100} | sections.pop("model", {}),
            # Several workers on one machine, each without a port of its own.
            "metrics": {"port": 0},
        }
        self.produced = [0] * n_partitions
        self.workers: dict[str, Process] = {}
        self._logs: dict[str, TextIO] = {}

    # -- Input --------------------------------------------------------------------------------------------------------

    def produce(self, events: list[Event], servers: str | None = None) -> None:
        for partition in range(self.n_partitions):
            mine = [e for e in events if partition_of(e, self.n_partitions) == partition]
            produce(servers or self.servers, self.names.input, partition, mine)
            self.produced[partition] += len(mine)

    def committed(self) -> dict[int, int]:
        reader = open_reader(Config.model_validate(self.config))
        try:
            return {p: there.next_offset for p, there in reader.committed().items()}
        finally:
            reader.close()

    def committed_or_none(self) -> dict[int, int]:
        """Nothing, too, while there is no state yet."""
        try:
            return self.committed()
        except ConfigError:
            return {}

    def done(self) -> bool:
        committed = self.committed()
        return all(committed.get(p, 0) >= n for p, n in enumerate(self.produced) if n)

    # -- Workers ------------------------------------------------------------------------------------------------------

    def start(self, worker: str, log: str | None = None) -> Process:
        """A real process; `log`: the name of its log file, where it is another instance of a worker."""
        config = self.directory / f"{self.names.application}.json"
        config.write_text(json.dumps(self.config))
        log_file = self.directory / f"{log or worker}.log"
        process = Process("tests.integration.kafka_worker", str(config), worker, cwd=ROOT, stderr=log_file)
        self.workers[worker] = process
        return process

    def log(self, worker: str) -> list[dict[str, Any]]:
        path = self.directory / f"{worker}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def text(self, worker: str) -> str:
        return (self.directory / f"{worker}.log").read_text()

    def events(self, worker: str, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log(worker) if line["event"] == name]

    def until_working(self, worker: str, at_least: int = 1) -> None:
        """Until the worker has been given partitions so many times."""

        def has_partitions() -> bool:
            # One whose first commit came to nothing begins anew with the partitions that it was given.
            again = any(event["offsets"] for event in self.events(worker, "started"))
            return len(self.events(worker, "partitions_moved")) >= at_least or (again and at_least == 1)

        until(has_partitions, f"{worker} has partitions")

    def kill(self, worker: str, how: signal.Signals = signal.SIGKILL) -> int:
        process = self.workers.pop(worker)
        process.send_signal(how)
        return process.wait(timeout=30)

    def close(self) -> None:
        for process in self.workers.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.workers.clear()

    # -- Proof --------------------------------------------------------------------------------------------------------

    def verify(self) -> Report:
        loaded = Config.model_validate(self.config)
        reader = open_reader(loaded)
        try:
            return verified(reader, loaded.job_settings(), FixedClock())
        finally:
            reader.close()


class OutsideReader(threading.Thread):
    """Reads tags and dead letters as an application would: committed records, with another client, all the while."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self.seen: Counter[tuple[int, int]] = Counter()
        self.tombstones = 0
        self._ended = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": job.servers,
                "group.id": f"{job.names.application}-outside",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "topic.metadata.refresh.interval.ms": 500,
            }
        )
        self._names = job.names
        self._consumer.subscribe([job.names.assignments, job.names.dead_letters])

    def run(self) -> None:
        while not self._ended.is_set():
            for message in self._consumer.consume(1000, 0.2):
                if message.error() is None:
                    self._note(message)

    def _note(self, message: Any) -> None:
        if message.topic() == self._names.dead_letters:
            headers = dict(message.headers())
            self.seen[int(headers["streamseg.error.partition"]), int(headers["streamseg.error.offset"])] += 1
        elif message.value() is None:
            self.tombstones += 1
        else:
            source = json.loads(message.value())["source"]
            if source is not None:
                self.seen[source["partition"], source["offset"]] += 1

    def close(self) -> None:
        self._ended.set()
        self.join(timeout=30)
        self._consumer.close()


def expected(job: Job, events: list[Event]) -> set[tuple[int, int]]:
    """(partition, offset) of all events that are answered by a tag or a dead letter."""
    offsets = [0] * job.n_partitions
    found = set()
    for e in events:
        partition = partition_of(e, job.n_partitions)
        if b'"erase"' not in (e[1] or b""):
            found.add((partition, offsets[partition]))
        offsets[partition] += 1
    return found


NOT_FINITE: list[Event] = [(None, b'{"customer_id": "bad", "age": %s}' % value, None) for value in (b"NaN", b"-Infinity")]


def stream(n: int, seed: int = 0, customers: int = 300) -> list[Event]:
    """Shoppers, with bad records and erasures in between; nobody waits."""
    events = shoppers(n, customers, seed)
    for i, other in enumerate([*BAD, *NOT_FINITE, event("c5", 3e5, erase=True), event("x" * 20_000, age=1.0)] * 3):
        events.insert((i * 331) % len(events), other)
    return events


def check(job: Job, outside: OutsideReader, events: list[Event]) -> Report:
    """The invariant, seen from outside; and every tag derived again."""
    until(job.done, "all events are committed")
    wanted = expected(job, events)
    until(lambda: wanted <= outside.seen.keys(), "the outside reader has seen everything", 40)
    assert [at for at, n in outside.seen.items() if n > 1] == []
    assert outside.seen.keys() == wanted
    report = job.verify()
    assert report.unread == []
    assert report.records + sum(report.horizon.values()) == len(events)
    return report

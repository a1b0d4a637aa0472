"""Groups of workers over the hostile store: who steps, dies, joins and hangs is drawn from a seed."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping

from streamseg.engine.settings import JobSettings
from streamseg.runtime.loop import Loop
from tests.harness import BAD, Event, FixedClock, Recorder, event, partition_of, shoppers
from tests.hostile import Dead, HostileBroker, HostileTransport, never

_DEADLINE_STEPS = 20_000


class Impatient(threading.Event):
    """Does not wait between retries."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class Group:
    """Workers of one application, stepped one at a time."""

    def __init__(self, events: list[Event], settings: JobSettings, n_partitions: int, batch: int) -> None:
        self.broker = HostileBroker(n_partitions)
        for partition in range(n_partitions):
            self.broker.inputs[partition] = [e for e in events if partition_of(e, n_partitions) == partition]
        self.settings, self.batch = settings, batch
        self.workers: dict[str, Loop] = {}
        self.recorder = Recorder()
        self._stepping: list[str] = []

    def spawn(self, name: str) -> None:
        """A new process under a stable id."""
        transport = HostileTransport(self.broker, name)
        self.workers[name] = Loop(
            transport,
            self.settings,
            FixedClock(),
            self.recorder,
            Impatient(),
            batch_records=self.batch,
            max_attempts=1_000,
        )

    def step(self, name: str) -> bool:
        """One step. A worker that is killed in it starts again under its id, or stays away until its turn after the next."""
        if name not in self.workers:
            self.spawn(name)
        self.broker.meanwhile = self._step_another
        self._stepping.append(name)
        try:
            return self.workers[name].step()
        except Dead:
            del self.workers[name]
            self.leave(name)
            return False
        finally:
            self._stepping.pop()

    def _step_another(self, reading: str) -> None:
        """Somebody works while another reads; not while a third one reads, too."""
        others = sorted(self.workers.keys() - {reading, *self._stepping})
        if others and len(self._stepping) < 2:
            self.step(others[0])

    def leave(self, name: str) -> None:
        """The session times out: the others take over. A zombie may still step."""
        self.broker.rebalance([member for member in self.broker.members if member != name])

    def run(self, seed: int, rates: Mapping[str, float], n_workers: int, steps: int) -> None:
        """`steps` steps under hazards, then to the end in peace."""
        names = [f"w{i}" for i in range(n_workers)]
        for name in names:
            self.spawn(name)
        self.struggle(random.Random(seed), rates, names, steps)
        self.broker.draw = never
        self.finish(names)

    def struggle(self, rng: random.Random, rates: Mapping[str, float], names: list[str], steps: int) -> None:
        self.broker.draw = lambda hazard: rng.randint(1, 3) if rng.random() < rates.get(hazard, 0.0) else 0
        for _ in range(steps):
            name = rng.choice(names)
            what = rng.random()
            if what < 0.04:
                self.leave(name)
                self.broker.fired["left or hanging"] += 1
            elif what < 0.08:
                self.broker.rebalance(sorted({*self.broker.members, name}))
            elif what < 0.11:
                self.spawn(name)
                self.broker.fired["killed between commits"] += 1
            self.step(name)

    def finish(self, names: list[str]) -> None:
        self.broker.rebalance(sorted(names))
        for _ in range(_DEADLINE_STEPS):
            done = [self.step(name) for name in names]
            if all(done):
                return
        raise AssertionError(f"not done: {self.broker.offsets}, fired {dict(self.broker.fired)}")


RATES = {
    "late visibility": 0.3,
    "abort": 0.03,
    "killed in a transaction": 0.03,
    "killed before its offsets": 0.03,
    "work while somebody reads": 0.05,
    "empty look": 0.2,
    "killed after the commit": 0.03,
    "unknown, committed": 0.04,
    "unknown, not committed": 0.04,
    "rebalance in mid-commit": 0.05,
    "fenced in mid-commit": 0.03,
}


def stream(n: int, customers: int, seed: int) -> list[Event]:
    events = shoppers(n, customers, seed)
    for i, other in enumerate([*BAD[:-1], event("c1", 9e4, erase=True), event("waits", 100.0, age=3.0)]):
        events.insert((i * 37) % len(events), other)
    return events

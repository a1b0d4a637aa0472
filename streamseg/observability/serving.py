"""What a worker tells the outside: its metrics and health, behind an endpoint."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from streamseg.engine.events import Observer
from streamseg.observability.endpoint import Endpoint
from streamseg.observability.health import Health
from streamseg.observability.metrics import Metrics


class Serving:
    """Answers, from what its observers are told. Raises ConfigError where the port is taken."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        address: str,
        port: int,
        inherited: int | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        """`inherited`: the file descriptor of a socket that listens already."""
        self._health = health
        # The pulse stands for itself, too: it goes on where the rest of the health fails.
        self.observers: tuple[Observer, ...] = (health.pulse, health, metrics)
        self.registry = metrics.registry
        listening = None if inherited is None else socket.socket(fileno=os.dup(inherited))
        self._endpoint = Endpoint(self, address, port, listening, allowed_hosts)
        self.port = self._endpoint.port

    def live(self) -> bool:
        return self._health.live

    def frozen(self) -> bool:
        return Metrics.__name__ in self._health.pulse.failed

    def ready(self) -> bool:
        return self._health.ready

    def status(self) -> dict[str, Any]:
        return self._health.status()

    def close(self) -> None:
        self._endpoint.close()


def serving(
    application: str,
    worker: str,
    topic: str,
    features: Iterable[str],
    address: str,
    port: int,
    inherited: int | None = None,
    allowed_hosts: Sequence[str] = (),
) -> Serving:
    return Serving(Metrics(topic, features), Health(application, worker), address, port, inherited, allowed_hosts)

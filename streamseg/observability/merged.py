"""One endpoint for the workers of `run --workers N`: what each says, with a label that tells whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple, TypeGuard

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# A worker that is just being started again does not answer.
_PATIENCE_S = 0.5


class Answer(NamedTuple):
    status: int
    body: bytes


class Workers(Collector):
    """Workers by the ports of loopback that they serve on."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        up = Metric("streamseg_worker_up", "Whether a worker answers.", "gauge")
        for worker, answer in enumerate(self._asked("/metrics")):
            up.add_sample("streamseg_worker_up", {"worker": str(worker)}, float(_is_well(answer)))
            if not _is_well(answer):
                continue
            for family in text_string_to_metric_families(answer.body.decode()):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "worker": str(worker)}))
        yield from (*families.values(), up)

    def describe(self) -> list[Metric]:
        return []

    def frozen(self) -> bool:
        """A worker whose metrics stand still is one that is not up."""
        return False

    def live(self) -> bool:
        """Whether any does: a supervisor starts those again that do not."""
        return any(_is_well(answer) for answer in self._asked("/livez"))

    def ready(self) -> bool:
        """Whether all are."""
        return all(_is_well(answer) for answer in self._asked("/readyz"))

    def status(self) -> list[Any]:
        """Of each; None for one that does not answer."""
        return [None if answer is None else msgspec.json.decode(answer.body) for answer in self._asked("/status")]

    def _asked(self, path: str) -> list[Answer | None]:
        """All at the same time: one that hangs holds up no scrape."""
        with ThreadPoolExecutor(len(self._ports)) as pool:
            return list(pool.map(lambda port: _get(port, path), self._ports))


def _is_well(answer: Answer | None) -> TypeGuard[Answer]:
    return answer is not None and answer.status == HTTPStatus.OK


def _get(port: int, path: str) -> Answer | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()

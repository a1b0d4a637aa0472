"""The pages of a worker, and of several behind one port, as a client sees them."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import cast

import pytest

from streamseg.engine.events import (
    ModelChanged,
    Observation,
    Observers,
    Polling,
    Restoring,
    SegmentSummary,
    Started,
    Stopped,
    Suspended,
    Waiting,
)
from streamseg.errors import ConfigError
from streamseg.observability.endpoint import Endpoint, look_at
from streamseg.observability.health import Health
from streamseg.observability.merged import Workers
from streamseg.observability.metrics import Metrics
from streamseg.observability.serving import Serving, serving
from tests.waiting import until


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(name="worker")
def _worker() -> Iterator[Serving]:
    found = serving("shop", "w0", "events", ["age"], "127.0.0.1", 0)
    yield found
    found.close()


def tell(worker: Serving, event: Observation) -> None:
    for observer in worker.observers:
        observer.observe(event)


def begin(worker: Serving) -> None:
    tell(worker, Polling(1, (0,), {0: 7}, {}))
    tell(worker, Started("shop", {0: 12}, 4, 60, 0.1))


def test_a_worker_is_ready_once_it_has_its_place_and_its_state(worker: Serving) -> None:
    assert get(worker.port, "/livez")[0] == 200
    assert get(worker.port, "/readyz")[0] == 503
    tell(worker, Started("shop", {}, 0, 0, 0.1))
    tell(worker, Polling(0, (), {}, {}))
    assert get(worker.port, "/readyz")[0] == 503, "it is no member of the group yet"
    begin(worker)
    assert get(worker.port, "/readyz")[0] == 200
    tell(worker, Restoring(0, 10))
    assert get(worker.port, "/readyz")[0] == 503
    begin(worker)
    tell(worker, Suspended())
    assert get(worker.port, "/readyz")[0] == 503
    assert get(worker.port, "/livez")[0] == 200, "it tries again"
    tell(worker, Stopped("signal", {}))
    assert get(worker.port, "/livez")[0] == 503


def test_status_tells_where_it_stands(worker: Serving) -> None:
    begin(worker)
    code, body = get(worker.port, "/status")
    said = json.loads(body)
    assert code == 200
    assert (said["application"], said["worker"], said["model"]["version"]) == ("shop", "w0", 4)
    assert said["partitions"] == {"0": {"next_offset": 12, "lag": 7}}
    assert get(worker.port, "/elsewhere")[0] == 404


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/status"])
def test_a_look_at_the_head_has_no_body(worker: Serving, path: str) -> None:
    begin(worker)
    with closing(HTTPConnection("127.0.0.1", worker.port, timeout=5)) as connection:
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert response.read() == b""
        # Nothing of a body is left on the way to the next answer.
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"


def test_metrics_that_fail_fail_the_scrape_and_health_that_fails_does_not_fail_the_probe(worker: Serving) -> None:
    told: list[Observation] = []

    class Log:
        def observe(self, event: Observation) -> None:
            told.append(event)

    observers = Observers(Log(), *worker.observers)
    begin(worker)
    observers.observe(ModelChanged("promoted", 5, cast("tuple[SegmentSummary, ...]", 1)))
    assert [event.details for event in told if isinstance(event, Waiting)] == [{"observer": "Metrics"}]
    code, body = get(worker.port, "/metrics")
    assert (code, "see the log" in body) == (500, True)
    assert get(worker.port, "/readyz")[0] == 200
    everyone = Endpoint(Workers([worker.port]), "127.0.0.1", 0)
    assert 'streamseg_worker_up{worker="0"} 0.0' in get(everyone.port, "/metrics")[1]
    everyone.close()
    observers.observe(Polling(1, (), cast("dict[int, int]", 1), {}))
    assert [event.details for event in told if isinstance(event, Waiting)][1:] == [{"observer": "Health"}]
    assert get(worker.port, "/livez")[0] == 200
    observers.observe(Stopped("signal", {}))
    assert get(worker.port, "/livez")[0] == 503


def test_a_loop_that_was_not_heard_of_is_not_live() -> None:
    now = [100.0]
    health = Health("shop", now=lambda: now[0], silence_s=60.0)
    now[0] = 159.0
    assert health.live
    now[0] = 161.0
    assert not health.live
    health.observe(Polling(1, (), {}, {}))
    assert health.live


def test_a_taken_port_is_an_error_that_says_what_to_do(worker: Serving) -> None:
    with pytest.raises(ConfigError, match=r"another port with --set metrics.port"):
        serving("shop", "w1", "events", [], "127.0.0.1", worker.port)


def test_an_address_that_is_not_this_machine_s_is_another_error_than_a_taken_port() -> None:
    for address in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match=r"set metrics.address to one of this machine's") as error:
            serving("shop", "w1", "events", [], address, 9_108)
        assert error.value.where == "metrics.address"
        assert "set metrics.address" in look_at(address, 9_108)[1]


@pytest.mark.parametrize("address", ["::1", "::", "localhost"])
def test_addresses_of_both_kinds_and_names_are_served(address: str) -> None:
    found = serving("shop", "w0", "events", ["age"], address, 0)
    asked = "127.0.0.1" if address == "localhost" else "[::1]"
    with urllib.request.urlopen(f"http://{asked}:{found.port}/livez", timeout=5) as response:
        assert response.status == 200
    assert look_at(address, found.port)[0] is None
    with pytest.raises(ConfigError, match="another port"):
        serving("shop", "w1", "events", [], address, found.port)
    found.close()
    assert look_at(address, found.port)[0] is True


def test_the_doctor_tells_a_free_port_from_ours_and_from_somebody_else_s(worker: Serving) -> None:
    assert look_at("127.0.0.1", worker.port)[0] is None
    assert "another metrics.port" in look_at("127.0.0.1", worker.port)[1]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.close()
        assert look_at("127.0.0.1", port)[0] is True
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert look_at("127.0.0.1", silent.getsockname()[1])[0] is False
    assert look_at("127.0.0.1", 0)[0] is None


def test_a_client_that_hangs_or_breaks_off_holds_nobody_up(worker: Serving) -> None:
    hanging = socket.create_connection(("127.0.0.1", worker.port))
    hanging.send(b"GET /metr")
    broken = socket.create_connection(("127.0.0.1", worker.port))
    broken.send(b"nonsense\r\n\r\n")
    broken.close()
    begin(worker)
    assert get(worker.port, "/metrics")[0] == 200
    hanging.close()


def n_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_two_hundred_slow_clients_hold_nobody_up_and_are_let_go_of(worker: Serving) -> None:
    begin(worker)
    before = n_descriptors()
    clients = [socket.create_connection(("127.0.0.1", worker.port)) for _ in range(200)]
    for client in clients:
        client.send(b"GET /metrics HT")
    began = time.monotonic()
    for _ in range(10):
        assert get(worker.port, "/livez")[0] == 200
        for client in clients[-60:]:
            with suppress(OSError):
                client.send(b"T")
    assert time.monotonic() - began < 5.0, "probes are answered meanwhile"
    # Each client's own end, and at most 64 of the server's.
    assert n_descriptors() - before <= 200 + 70
    until(lambda: all(is_closed(client) for client in clients), "all are let go of", 30.0)
    for client in clients:
        client.close()


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        client.send(b"T")
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_request_is_bounded(worker: Serving) -> None:
    begin(worker)
    with socket.create_connection(("127.0.0.1", worker.port)) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 20_000 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 431 ")
    with socket.create_connection(("127.0.0.1", worker.port)) as client:
        client.sendall(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("address", "allowed", "host", "status"),
    [
        ("127.0.0.1", [], "127.0.0.1:9108", 200),
        ("127.0.0.1", [], "localhost", 200),
        ("127.0.0.1", [], "[::1]:9108", 200),
        ("127.0.0.1", [], "evil.example", 403),
        ("127.0.0.1", [], "10.0.0.7:9108", 403),
        ("127.0.0.1", ["Streamseg.shop.svc"], "streamseg.shop.svc:9108", 200),
        ("127.0.0.1", ["*"], "evil.example", 200),
        # A kubelet and Prometheus ask a pod by its address.
        ("0.0.0.0", [], "10.0.0.7:9108", 200),
        ("0.0.0.0", [], "streamseg:9108", 403),
    ],
)
def test_only_names_that_are_its_own_are_answered(address: str, allowed: list[str], host: str, status: int) -> None:
    found = serving("shop", "w0", "events", ["age"], address, 0, allowed_hosts=allowed)
    with closing(HTTPConnection("127.0.0.1", found.port, timeout=5)) as connection:
        connection.request("GET", "/metrics", headers={"Host": host})
        assert connection.getresponse().status == status
    found.close()


def test_several_workers_are_behind_one_port() -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    first = serving("shop", "w0", "events", ["age"], "127.0.0.1", 0, sockets[0].fileno())
    begin(first)
    everyone = Endpoint(Workers([one.getsockname()[1] for one in sockets]), "127.0.0.1", 0)
    text = get(everyone.port, "/metrics")[1]
    assert 'streamseg_model_version{worker="0"} 4.0' in text
    assert 'streamseg_worker_up{worker="0"} 1.0' in text
    assert 'streamseg_worker_up{worker="1"} 0.0' in text, "nobody serves on its socket yet"
    assert get(everyone.port, "/readyz")[0] == 503
    assert get(everyone.port, "/livez")[0] == 200
    second = serving("shop", "w1", "events", ["age"], "127.0.0.1", 0, sockets[1].fileno())
    begin(second)
    assert get(everyone.port, "/readyz")[0] == 200
    text = get(everyone.port, "/metrics")[1]
    assert text.count("# TYPE streamseg_model_version gauge") == 1
    assert 'streamseg_consumer_lag_records{partition="0",topic="events",worker="1"} 7.0' in text
    assert [one["worker"] for one in json.loads(get(everyone.port, "/status")[1])] == ["w0", "w1"]
    for one in (everyone, first, second):
        one.close()
    for listening in sockets:
        listening.close()


def test_an_endpoint_that_dies_takes_nothing_with_it() -> None:
    metrics, health = Metrics("events"), Health("shop")
    worker = Serving(metrics, health, "127.0.0.1", 0)
    worker.close()
    begin(worker)
    assert health.ready

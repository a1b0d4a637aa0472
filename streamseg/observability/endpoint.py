"""One port for /metrics, /livez, /readyz and /status. It serves beside the job, and what goes wrong here stays here."""

from __future__ import annotations

import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from streamseg.errors import ConfigError

_SERVER = "streamseg"
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"
# A request has to be there within so many seconds, its answer to be taken; a connection is used again for so long.
_REQUEST_S, _ANSWER_S, _LIFETIME_S = 10.0, 30.0, 60.0
_CONNECTIONS, _THREADS, _REQUEST_BYTES = 64, 8, 16_384
_TURN_S = 0.1
_SETTINGS = Adjustments(
    ident=_SERVER,
    threads=_THREADS,
    # Beside the connections the server counts its own socket and the one that wakes it.
    connection_limit=_CONNECTIONS + 2,
    channel_timeout=int(_REQUEST_S),
    cleanup_interval=1,
    max_request_header_size=_REQUEST_BYTES,
    max_request_body_size=_REQUEST_BYTES,
    log_socket_errors=False,
    clear_untrusted_proxy_headers=True,
)
# A client that went away, or too many of them, are no news.
logging.getLogger("waitress").addHandler(logging.NullHandler())
logging.getLogger("waitress").propagate = False


class Answers(Protocol):
    """What an endpoint asks. All of it is asked from threads of its own."""

    registry: CollectorRegistry

    def live(self) -> bool: ...

    def frozen(self) -> bool:
        """Whether the registry is told nothing more."""
        ...

    def ready(self) -> bool: ...

    def status(self) -> Any: ...


class _Channel(HTTPChannel):
    """A connection whose requests have to come within a deadline, however slowly their bytes do."""

    def received(self, data: bytes) -> bool:
        begun = time.time() if self.request is None else self.last_begun
        taken = bool(super().received(data))
        self.last_begun = begun
        if self.request is not None:
            self.last_activity = begun
        return taken

    last_begun = 0.0


class _Server(TcpWSGIServer):
    channel_class = _Channel

    def upkeep(self) -> None:
        """End connections that have been there for too long, and make room for one that waits.

        Only between two turns of the loop, which knows descriptors by their numbers.
        """
        now, channels = time.time(), list(self.active_channels.values())
        for channel in channels:
            age = now - channel.creation_time
            if age > _LIFETIME_S + _ANSWER_S or (age > _LIFETIME_S and not channel.requests):
                channel.handle_close()
        waiting = [channel for channel in self.active_channels.values() if not channel.requests]
        if len(self.active_channels) >= _CONNECTIONS and waiting and self._somebody_waits():
            # The one that keeps it waiting longest.
            min(waiting, key=lambda channel: channel.last_activity).handle_close()

    def _somebody_waits(self) -> bool:
        listening = select.poll()
        listening.register(self.socket, select.POLLIN)
        return bool(listening.poll(0))


def look_at(address: str, port: int) -> tuple[bool | None, str]:
    """Whether a worker could serve on a port, and in words: True free, None one serves there already, False taken."""
    if port == 0:
        return None, "metrics.port is 0: nothing is served"
    where = _in_words(address, port)
    try:
        family = _family(address)
        # As it is served: :: takes IPv4 as well.
        with socket.create_server((address, port), family=family, dualstack_ipv6=address == "::"):
            return True, f"{where} is free"
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_ours(address, port):
            return None, f"a worker of streamseg serves on {where} already; another one needs another metrics.port"
        return False, f"{where} cannot be served on ({error.strerror or error}): {_what_to_do(error)}"


def _family(address: str) -> socket.AddressFamily:
    """IPv4 where a name has both. Raises OSError where it has none."""
    families = {found[0] for found in socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


def _in_words(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _what_to_do(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is another job on it? Give this one another port with --set metrics.port=N, or none with 0"
    if error.errno == errno.EACCES:
        return "ports below 1024 are the system's: give another one with --set metrics.port=N"
    return "set metrics.address to one of this machine's: 127.0.0.1 or ::1, or all of them with 0.0.0.0 or ::"


def _is_ours(address: str, port: int) -> bool:
    connection = HTTPConnection(address, port, timeout=2.0)
    try:
        connection.request("GET", "/livez")
        return (connection.getresponse().getheader("Server") or "").startswith(_SERVER)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class Endpoint:
    """Serves until it is closed."""

    def __init__(
        self,
        answers: Answers,
        address: str,
        port: int,
        inherited: socket.socket | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        """`inherited`: a socket that listens already. Raises ConfigError where it cannot be served.

        `allowed_hosts`: names that a request may ask for in its Host header, beside the address and this machine's own; "*":
        any. A page of the web that a browser was told to be this machine (DNS rebinding) asks for its own name.
        """
        listening = inherited or _listening(address, port)
        self.port = int(listening.getsockname()[1])
        self._closing = threading.Event()
        self._server = _Server(
            _Pages(answers, _Hosts(address, allowed_hosts)),
            map={},
            _sock=listening,
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
            bind_socket=False,
            adj=_SETTINGS,
        )
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._server.upkeep()
            wasyncore.loop(timeout=_TURN_S, use_poll=True, map=self._server._map, count=1)
        # Threads wake this one through a descriptor: they end before it is closed, and may be somebody else's.
        self._server.task_dispatcher.shutdown()
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()


def _listening(address: str, port: int) -> socket.socket:
    """Raises ConfigError."""
    try:
        # :: takes IPv4 as well.
        return socket.create_server((address, port), family=_family(address), dualstack_ipv6=address == "::")
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {_in_words(address, port)}: {error.strerror or error}",
            where="metrics.port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "metrics.address",
            hint=_what_to_do(error),
        ) from None


class _Hosts:
    """Which Host headers are answered."""

    def __init__(self, address: str, allowed: Sequence[str]) -> None:
        self._names = {"localhost", "127.0.0.1", "::1", address.lower(), *map(str.lower, allowed)}
        # A worker that listens on all addresses is asked for by each of them, which are no names that could be rebound.
        self._any_address = address in ("0.0.0.0", "::")

    def allow(self, header: str | None) -> bool:
        if header is None or "*" in self._names:
            return True
        name = _host_of(header)
        return name in self._names or (self._any_address and _is_address(name))


def _host_of(header: str) -> str:
    """Without the port, and the brackets of IPv6."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


Response = tuple[HTTPStatus, str, bytes]


class _Pages:
    """The WSGI application."""

    def __init__(self, answers: Answers, hosts: _Hosts) -> None:
        self._answers, self._hosts = answers, hosts
        self._pages: dict[str, Callable[[str], Response]] = {
            "/metrics": self._metrics,
            "/livez": lambda accept: _probe(answers.live()),
            "/readyz": lambda accept: _probe(answers.ready()),
            "/status": self._status,
        }

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        status, kind, body = self._response(environ)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("X-Content-Type-Options", "nosniff")]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _response(self, environ: Mapping[str, Any]) -> Response:
        if not self._hosts.allow(environ.get("HTTP_HOST")):
            return HTTPStatus.FORBIDDEN, _TEXT, b"this host is not served here: see metrics.allowed_hosts\n"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"pages are read with GET\n"
        page = self._pages.get(environ["PATH_INFO"])
        if page is None:
            return HTTPStatus.NOT_FOUND, _TEXT, f"there are: {', '.join(self._pages)}\n".encode()
        return page(environ.get("HTTP_ACCEPT", ""))

    def _status(self, accept: str) -> Response:
        return HTTPStatus.OK, _JSON, msgspec.json.format(msgspec.json.encode(self._answers.status()), indent=2)

    def _metrics(self, accept: str) -> Response:
        if self._answers.frozen():
            return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"the metrics failed and stand still: see the log\n"
        encode, kind = choose_encoder(accept)
        return HTTPStatus.OK, kind, encode(self._answers.registry)


def _probe(well: bool) -> Response:
    return (HTTPStatus.OK, _TEXT, b"ok\n") if well else (HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"no\n")

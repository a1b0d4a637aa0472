"""One port for /metrics, /livez, /readyz and /status. It serves beside the job, and what goes wrong here stays here."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamseg.errors import ConfigError

_SERVER = "streamseg"
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"
# A client that says nothing for so long is let go.
_CLIENT_S = 10.0


class Answers(Protocol):
    """What an endpoint asks. All of it is asked from threads of its own."""

    registry: CollectorRegistry

    def live(self) -> bool: ...

    def frozen(self) -> bool:
        """Whether the registry is told nothing more."""
        ...

    def ready(self) -> bool: ...

    def status(self) -> Any: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler], *, listening: bool) -> None:
        self.address_family = _family(address)
        super().__init__((address, port), handler, bind_and_activate=not listening)

    def server_bind(self) -> None:
        """Without asking a name server what this machine is called: nobody needs that, and it may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


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

    def __init__(self, answers: Answers, address: str, port: int, inherited: socket.socket | None = None) -> None:
        """`inherited`: a socket that listens already. Raises ConfigError where it cannot be served."""
        handler = _handler(answers)
        try:
            self._server = _Server(address, port, handler, listening=inherited is not None)
        except OSError as error:
            raise ConfigError(
                f"cannot serve metrics on {_in_words(address, port)}: {error.strerror or error}",
                where="metrics.port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "metrics.address",
                hint=_what_to_do(error),
            ) from None
        if inherited is not None:
            self._server.socket.close()
            self._server.socket = inherited
        self.port = int(self._server.socket.getsockname()[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_S
        server_version = _SERVER
        sys_version = ""

        def do_GET(self) -> None:
            pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
                "/metrics": self._metrics,
                "/livez": lambda: _probe(answers.live()),
                "/readyz": lambda: _probe(answers.ready()),
                "/status": self._status,
            }
            page = pages.get(urlsplit(self.path).path)
            if page is None:
                self._send(HTTPStatus.NOT_FOUND, _TEXT, f"there are: {', '.join(pages)}\n".encode())
            else:
                self._send(*page())

        def do_HEAD(self) -> None:
            self.do_GET()

        def _status(self) -> tuple[HTTPStatus, str, bytes]:
            return HTTPStatus.OK, _JSON, msgspec.json.format(msgspec.json.encode(answers.status()), indent=2)

        def _metrics(self) -> tuple[HTTPStatus, str, bytes]:
            if answers.frozen():
                return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"the metrics failed and stand still: see the log\n"
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            return HTTPStatus.OK, kind, encode(answers.registry)

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are no news."""

    return Handler


def _probe(well: bool) -> tuple[HTTPStatus, str, bytes]:
    return (HTTPStatus.OK, _TEXT, b"ok\n") if well else (HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"no\n")

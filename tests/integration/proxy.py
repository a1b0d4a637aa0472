"""A TCP proxy on loopback that can cut its connections, or swallow what they carry."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Forwards from a port to another one."""

    def __init__(self, port: int, target: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._target = target
        self._swallowing: set[str] = set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._open |= {client, server}
        back = threading.Thread(target=self._pump, args=(server, client, "answers"), daemon=True)
        back.start()
        self._pump(client, server, "requests")

    def _pump(self, source: socket.socket, sink: socket.socket, what: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if what not in self._swallowing:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)

    def swallow(self, on: bool, *, answers_only: bool = False) -> None:
        """A black hole: bytes go in and never come out."""
        self._swallowing = {"answers"} if answers_only else {"requests", "answers"} if on else set()

    def cut(self) -> None:
        """All connections end now; new ones are served."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """As new: whoever hangs connects again."""
        self.swallow(False)
        self.cut()

    def close(self) -> None:
        self._listener.close()
        self.cut()

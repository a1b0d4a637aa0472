"""Schema registries for tests: a small one in the process, and a real Apicurio from Maven's artifacts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.maven import copies, fetched
from tests.waiting import until

APICURIO = "3.0.9"
START_DEADLINE_S = 120.0


class SmallRegistry:
    """Confluent's API as far as we and confluent-kafka's serializers use it, over HTTP on loopback."""

    def __init__(self) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.away = False
        # By subject, the status with which it refuses new schemas.
        self.closed: dict[str, int] = {}
        self.needs: str | None = None
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                registry.asked.append(self.path)
                status, found = 503, {"error_code": 503}
                if registry.needs is not None and self.headers.get("Authorization") != registry.needs:
                    status, found = 401, {"error_code": 401}
                elif not registry.away:
                    status, found = registry.answer(self.path.partition("?")[0], body)
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: list[Any] | None = None) -> int:
        given = {"schema": schema, "schemaType": kind, "references": references or []}
        if given not in [{key: one[key] for key in given} for one in self.schemas]:
            self.schemas.append(given | {"guid": str(uuid.uuid5(uuid.NAMESPACE_URL, schema))})
        number = 1 + [{key: one[key] for key in given} for one in self.schemas].index(given)
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        match parts:
            case ["schemas", "ids", number] if 1 <= int(number) <= len(self.schemas):
                return 200, self.schemas[int(number) - 1]
            case ["schemas", "ids", number, "versions"]:
                return 200, [
                    {"subject": subject, "version": versions.index(int(number)) + 1}
                    for subject, versions in self.subjects.items()
                    if int(number) in versions
                ]
            case ["schemas", "guids", guid]:
                found = next((one for one in self.schemas if one["guid"] == guid), None)
                if found is not None:
                    return 200, found
            case ["subjects", subject, "versions"] if subject in self.closed:
                return self.closed[subject], {"error_code": self.closed[subject], "message": "not this one"}
            case ["subjects", subject, "versions"] if body is not None:
                return 200, self._described(
                    subject, self.register(subject, body["schema"], body.get("schemaType") or "AVRO", body.get("references"))
                )
            case ["subjects", subject] if body is not None:
                for there in self.subjects.get(subject, ()):
                    if self.schemas[there - 1]["schema"] == body["schema"]:
                        return 200, self._described(subject, there)
            case ["subjects", subject, "versions", version] if subject in self.subjects:
                versions = self.subjects[subject]
                place = len(versions) if version == "latest" else int(version)
                if 1 <= place <= len(versions):
                    return 200, self._described(subject, versions[place - 1])
        return 404, {"error_code": 40401, "message": "not found"}

    def _described(self, subject: str, number: int) -> dict[str, Any]:
        version = self.subjects[subject].index(number) + 1
        return {"subject": subject, "version": version, "id": number, **self.schemas[number - 1]}


@contextmanager
def small_registry() -> Iterator[SmallRegistry]:
    registry = SmallRegistry()
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with small_registry() as made:
        yield made


def unavailable() -> str:
    """Why there can be no Apicurio; empty where there can."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"needs a schema registry: {' and '.join(missing)} not found" if missing else ""


class Apicurio:
    """A real registry, in memory, that can be stopped and started; what was registered is registered again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        home = libraries()
        jar = next(home.glob("*-runner.jar"))
        command = [
            "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dquarkus.http.port={self.port}",
            "-Dquarkus.http.host=127.0.0.1", f"-Dapicurio.datasource.url=jdbc:h2:file:{self.directory / 'registry'}",
            "-jar", str(jar),
        ]  # fmt: skip
        with (self.directory / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, start_new_session=True)
        until(self._answers, "the registry answers", START_DEADLINE_S)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self.directory / "registry.log").read_text()[-2_000:])
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            # Killed, it would leave a lock on its database.
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None


def libraries() -> Path:
    """Apicurio's files, fetched once and kept."""
    return fetched(f"streamseg-test-apicurio-{APICURIO}", copies(f"io.apicurio:apicurio-registry-app:{APICURIO}:tar.gz:all"))


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    why = unavailable()
    if why:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    registry = Apicurio(tmp_path_factory.mktemp("registry"))
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()

"""A schema registry, by Confluent's API: the only place that sends requests to one, and that runs protoc.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from streamseg.errors import ConfigError, RetriableError
from streamseg.formats.wire import ID_BYTES, KnownSchema, spoken

_RETRIES, _BACKOFF_S = 2, 0.2
_MOST_REFERENCES = 1_000
_PROTOC_S = 60.0


class RegistryAccess(NamedTuple):
    """How to reach a registry. Files are PEM."""

    url: str
    username: str | None = None
    password: str | None = None
    token: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    timeout_s: float = 10.0


class Registry:
    """Fetches schemas with all that they refer to."""

    def __init__(self, access: RegistryAccess) -> None:
        """Raises ConfigError where what it takes is not installed, or a certificate cannot be read."""
        try:
            import urllib3
        except ImportError:
            raise ConfigError(
                "a schema registry needs more packages", where="input.registry", hint='pip install "streamseg[registry]"'
            ) from None
        try:
            address = urllib3.util.parse_url(access.url)
        except urllib3.exceptions.LocationParseError:
            raise ConfigError("it is no URL", where="input.registry", hint="as in http://localhost:8081") from None
        # The URL stands in errors and in the log, and so without a password.
        self._url = address._replace(auth=None).url.rstrip("/")
        kind = "application/vnd.schemaregistry.v1+json"
        self._headers = {"Accept": f"{kind}, application/json", "Content-Type": kind}
        login = None if access.username is None else f"{access.username}:{access.password or ''}"
        login = login or (None if address.auth is None else unquote(address.auth))
        if access.token:
            self._headers["Authorization"] = f"Bearer {access.token}"
        elif login is not None:
            self._headers |= urllib3.make_headers(basic_auth=login)
        for file in filter(None, (access.ca_file, access.certificate_file, access.key_file)):
            if not Path(file).is_file():
                raise ConfigError(f"there is no file {file!r}", where="input.registry")
        self._http = urllib3.PoolManager(
            ca_certs=access.ca_file,
            cert_file=access.certificate_file,
            key_file=access.key_file,
            timeout=access.timeout_s,
            retries=urllib3.Retry(_RETRIES, backoff_factor=_BACKOFF_S),
        )
        self._errors = (urllib3.exceptions.HTTPError, OSError)

    def fetch(self, ids: Sequence[bytes]) -> list[KnownSchema]:
        return [self._schema(one) for one in ids]

    def register(self, subject: str, body: bytes) -> KnownSchema:
        # One that somebody registered for us needs no right to write.
        found = self.registered(subject, body) or self._answered(subject, body, "/versions")
        if found is None:
            raise self._no_registry(f"subject {subject}", 404)
        return found

    def registered(self, subject: str, body: bytes) -> KnownSchema | None:
        return self._answered(subject, body, "")

    def _answered(self, subject: str, body: bytes, to: str) -> KnownSchema | None:
        """What the registry says of a schema that is sent to a subject, or to its versions."""
        path = f"/subjects/{quote(subject, safe='')}{to}"
        found = self.get(path, {"schema": json.dumps(json.loads(body)[-1], separators=(",", ":"))})
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("id"), int):
            raise self._no_registry(path, 200)
        return KnownSchema(found["id"].to_bytes(ID_BYTES, "big"), "avro", body, written=subject)

    def _schema(self, schema_id: bytes) -> KnownSchema:
        if len(schema_id) == ID_BYTES:
            found = self.get(f"/schemas/ids/{int.from_bytes(schema_id, 'big')}")
        else:
            found = self.get(f"/schemas/guids/{spoken(schema_id).removeprefix('schema ')}")
        if found is None:
            return KnownSchema(schema_id, "missing", f"{self._url} has none".encode())
        if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
            raise self._no_registry(f"schema of {spoken(schema_id)}", 200)
        subject = self._subject_of(schema_id)
        kind, text = str(found.get("schemaType") or "AVRO").upper(), str(found["schema"])
        try:
            references = self._references(found)
            if kind == "AVRO":
                ordered = [json.loads(one) for one in [*references.values(), text]]
                return KnownSchema(schema_id, "avro", json.dumps(ordered, separators=(",", ":")).encode(), subject)
            if kind == "PROTOBUF":
                return KnownSchema(schema_id, "protobuf", descriptors_of(text, references), subject)
        except (ValueError, KeyError, TypeError, RecursionError, subprocess.TimeoutExpired) as error:
            return KnownSchema(schema_id, "missing", f"{self._url} has one that cannot be read: {error}".encode())
        if kind == "JSON":
            return KnownSchema(schema_id, "json", b"", subject)
        return KnownSchema(schema_id, "missing", f"{self._url} has one of the type {kind}, which is not read".encode())

    def _references(self, schema: Mapping[str, Any]) -> dict[str, str]:
        """By name, each after those that it refers to itself. Raises ValueError."""
        found: dict[str, str] = {}

        def visit(one: Mapping[str, Any]) -> None:
            for reference in one.get("references") or ():
                name = str(reference["name"])
                if name in found or len(found) > _MOST_REFERENCES:
                    continue
                subject, version = quote(str(reference["subject"]), safe=""), int(reference["version"])
                there = self.get(f"/subjects/{subject}/versions/{version}")
                if there is None:
                    raise ValueError(f"it refers to version {version} of {reference['subject']!r}, which is not there")
                visit(there)
                found[name] = str(there["schema"])

        visit(schema)
        return found

    def _subject_of(self, schema_id: bytes) -> str:
        """The first subject that has a schema, with the version, for people; "" where the registry does not say."""
        if len(schema_id) != ID_BYTES:
            return ""
        found = self.get(f"/schemas/ids/{int.from_bytes(schema_id, 'big')}/versions")
        pairs = [pair for pair in found if isinstance(pair, dict)] if isinstance(found, list) else []
        return min((f"{pair['subject']} version {pair['version']}" for pair in pairs), default="")

    def get(self, path: str, sent: Any = None) -> Any:
        """A response's JSON, to what is `sent`; None where there is no such thing. Raises RetriableError, ConfigError."""
        method, body = ("GET", None) if sent is None else ("POST", json.dumps(sent))
        try:
            answer = self._http.request(method, self._url + path, headers=self._headers, body=body)
        except self._errors as error:
            raise RetriableError(
                f"the schema registry cannot be reached: {type(error).__name__}",
                where=self._url,
                hint="the job waits, and nothing is lost; check the registry, or input.registry",
            ) from None
        if answer.status >= 500 or answer.status == 429:
            raise RetriableError(f"the schema registry answers {answer.status}", where=self._url + path)
        return self._read(path, answer.status, answer.data)

    def _read(self, path: str, status: int, data: bytes) -> Any:
        if status == 404 and _says_not_found(data):
            return None
        if status in (401, 403):
            raise ConfigError(
                f"the schema registry refuses us ({status})",
                where=self._url,
                hint="input.registry.username and password, or token: better as STREAMSEG_INPUT__REGISTRY__PASSWORD",
            )
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if status in (409, 422) and isinstance(found, dict):
            raise ConfigError(
                f"the schema registry does not take our schema: {found.get('message', status)}",
                where=f"{self._url}{path}",
                hint="`streamseg schema assignment --avro` prints it; name another output.topic, or free the subject",
            )
        if status != 200 or found is None:
            raise self._no_registry(path, status)
        return found

    def _no_registry(self, path: str, status: int) -> ConfigError:
        return ConfigError(
            f"what answers there is no schema registry (status {status})",
            where=f"{self._url} {path}",
            hint="the URL of Confluent's API: of Apicurio it ends in /apis/ccompat/v7",
        )


def _says_not_found(data: bytes) -> bool:
    """Whether it is the registry that says so, and not a proxy or another server in its place."""
    try:
        return "error_code" in json.loads(data)
    except (ValueError, TypeError):
        return False


def descriptors_of(text: str, references: Mapping[str, str]) -> bytes:
    """A FileDescriptorSet of a schema and all that it imports. Raises ValueError.

    Java's producers register .proto text, confluent-kafka's serializer for Python descriptors in base64.
    """
    from google.protobuf import descriptor_pb2

    out = descriptor_pb2.FileDescriptorSet()
    descriptors = {name: _descriptor(one) for name, one in [*references.items(), ("", text)]}
    if descriptors[""] is None:
        return _compiled(text, references)
    if None in descriptors.values():
        raise ValueError("it is a descriptor, and refers to a .proto text")
    there: set[str] = set()
    for name, file in descriptors.items():
        if name:
            file.name = name
        for imported in file.dependency:
            _add_well_known(out, imported, there | descriptors.keys())
            there.add(imported)
        out.file.append(file)
    if not out.file[-1].name or out.file[-1].name in references:
        out.file[-1].name = "event.proto"
    return out.SerializeToString(deterministic=True)


def _descriptor(text: str) -> Any:
    """A file's descriptor; None where a text is none in base64."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.message import DecodeError

    try:
        return descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, DecodeError):
        return None


def _add_well_known(out: Any, name: str, there: set[str]) -> None:
    """Google's own types are registered nowhere. INOUT out. Raises ValueError."""
    from google.protobuf import (  # noqa: F401 - each registers its file
        any_pb2,
        descriptor_pool,
        duration_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )

    if name in there:
        return
    try:
        file = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        raise ValueError(f"it imports {name!r}, which is not among its references") from None
    made = out.file.add()
    file.CopyToProto(made)


def _compiled(text: str, references: Mapping[str, str]) -> bytes:
    """By protoc, in a process of its own. Raises ValueError."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, source in [*references.items(), ("event.proto", text)]:
            path = (root / name).resolve()
            if not path.is_relative_to(root.resolve()):
                raise ValueError(f"it refers to a file {name!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", "--include_imports",
            f"--descriptor_set_out={root / 'out.bin'}", "event.proto",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=root, capture_output=True, timeout=_PROTOC_S, check=False)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(lines[-1] if lines else "protoc cannot compile it")
        return (root / "out.bin").read_bytes()

"""Records that name their schema: Confluent's framing, and the schemas that a job has met.

A value begins with a zero and the schema's id in four bytes, or with a one and its GUID in sixteen (which stands in a header
of the record, and is put in front of the value where it is read):
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format.

Whatever the format, a value becomes an object of plain Python values, to which the rules of JSON apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from streamseg.errors import ConfigError, DeadLetterCode, RecordError

FormatName = Literal["auto", "json", "avro", "protobuf"]
SchemaKind = Literal["avro", "protobuf", "json", "missing"]

ID_BYTES, _GUID_BYTES = 4, 16
# The first byte of a value that names its schema is not above this one, with which no JSON begins.
_MAGIC = b"\x01"


class KnownSchema(msgspec.Struct, frozen=True):
    """A schema as it stands in the model log, complete with all that it refers to.

    Attributes:
        id: as values name it, 4 or 16 bytes.
        body: Avro: a JSON array of schemas, each after those that it refers to; Protobuf: a FileDescriptorSet whose last
            file is the schema's; of one that is missing, why.
        subject: a subject and version that has it, for people.
        written: the subject under which it is registered for what the job writes; "" for one that values name.
    """

    id: bytes
    kind: SchemaKind
    body: bytes = b""
    subject: str = ""
    written: str = ""

    @property
    def key(self) -> tuple[bytes, str]:
        """What tells it from others in a log."""
        return self.id, self.written

    @property
    def name(self) -> str:
        return f"{spoken(self.id)} ({self.subject})" if self.subject else spoken(self.id)


class SchemaSource(Protocol):
    """Where schemas come from."""

    def fetch(self, ids: Sequence[bytes]) -> list[KnownSchema]:
        """A schema for each id, of the kind "missing" where there is none. Raises RetriableError, ConfigError."""
        ...

    def registered(self, subject: str, body: bytes) -> KnownSchema | None:
        """An Avro schema as it stands under a subject. Raises RetriableError, ConfigError."""
        ...

    def register(self, subject: str, body: bytes) -> KnownSchema:
        """The same, where it does not stand there yet, too. Raises RetriableError, ConfigError."""
        ...


class NoRegistry:
    """No registry is configured."""

    def fetch(self, ids: Sequence[bytes]) -> list[KnownSchema]:
        return [KnownSchema(one, "missing", b"no schema registry is set (input.registry)") for one in ids]

    def registered(self, subject: str, body: bytes) -> KnownSchema | None:
        return None

    def register(self, subject: str, body: bytes) -> KnownSchema:
        raise ConfigError("output.format avro needs a schema registry", where="input.registry", hint="set its URL")


NO_REGISTRY = NoRegistry()


class Framed(NamedTuple):
    """The schema's id, and where the payload begins."""

    id: bytes
    begin: int


def framed(value: bytes | None) -> Framed | None:
    """None where a value does not name a schema."""
    if value is None or value[:1] > _MAGIC or not value:
        return None
    width = _GUID_BYTES if value[:1] == _MAGIC else ID_BYTES
    return Framed(value[1 : 1 + width], 1 + width) if len(value) > width else None


def head_of(schema_id: bytes) -> bytes:
    """What stands before the payload of a value that names a schema by its number."""
    return b"\0" + schema_id


def spoken(schema_id: bytes) -> str:
    """An id as a registry's pages show it."""
    if len(schema_id) == ID_BYTES:
        return f"schema id {int.from_bytes(schema_id, 'big')}"
    text = schema_id.hex()
    return f"schema {text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


Read = Callable[[bytes], Any]


class SchemaBook:
    """The schemas that are known by now. Each is compiled when a value names it."""

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        """`wanted`: paths of the fields that are read."""
        self.known: dict[bytes, KnownSchema] = {}
        self._wanted = frozenset(path.split(".")[0] for path in wanted)
        # By what stands before the payload.
        self.readers: dict[bytes, Read] = {}

    def learn(self, schemas: Iterable[KnownSchema]) -> None:
        for schema in schemas:
            self.known[schema.id] = schema
            self.readers.pop((b"\0" if len(schema.id) == ID_BYTES else _MAGIC) + schema.id, None)

    def named(self, values: Iterable[bytes | None]) -> list[bytes]:
        """Ids of the schemas that values name, in the order of their first appearance."""
        short, long = 1 + ID_BYTES, 1 + _GUID_BYTES
        heads = dict.fromkeys(
            value[: long if value[0] else short]
            for value in values
            if value and value[:1] <= _MAGIC and len(value) > (long if value[0] else short)
        )
        return [head[1:] for head in heads]

    def lacking(self, values: Iterable[bytes | None]) -> list[bytes]:
        """Those that are not known, or were missing when they were last requested."""
        return [one for one in self.named(values) if one not in self.known or self.known[one].kind == "missing"]

    def read(self, value: bytes, frame: Framed) -> Any:
        """The object that a value holds. Raises RecordError."""
        head = value[: frame.begin]
        if head not in self.readers:
            self.readers[head] = self._compiled(frame.id)
        return self.readers[head](value[frame.begin :])

    def _compiled(self, schema_id: bytes) -> Read:
        schema = self.known.get(schema_id)
        name = spoken(schema_id) if schema is None else schema.name
        if schema is None or schema.kind == "missing":
            why = "no schema registry is set (input.registry)" if schema is None else schema.body.decode()
            return _rejecting(f"it begins as a record of a schema registry does ({name}): {why}")
        if schema.kind == "json":
            return _json
        # Only where they are needed: not every installation has them.
        if schema.kind == "avro":
            from streamseg.formats.avro import reader_of
        else:
            from streamseg.formats.protobuf import reader_of
        try:
            return reader_of(schema.body, name, self._wanted)
        except Exception as error:  # noqa: BLE001 - of any kind, on a schema of any kind
            return _rejecting(f"{name} cannot be compiled: {type(error).__name__} {error}".rstrip())


def _rejecting(message: str) -> Read:
    """A reader for values whose schema cannot be used."""

    def reject(payload: bytes) -> Any:
        raise RecordError(DeadLetterCode.UNKNOWN_SCHEMA, message)

    return reject


def _json(payload: bytes) -> Any:
    """Raises RecordError."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(DeadLetterCode.NOT_JSON, str(error)) from None


class Format(NamedTuple):
    """How values are decoded: by a format's name, and the schemas that are known."""

    name: FormatName
    book: SchemaBook

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        """A function from a value to a `kind`, which raises msgspec's errors, and RecordError."""
        plain: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        book, convert, name = self.book, msgspec.convert, self.name
        readers, short = book.readers, 1 + ID_BYTES

        def decode(value: bytes) -> Any:
            if (read := readers.get(value[:short])) is not None and name != "json":
                return convert(read(value[short:]), kind)
            if value[:1] > _MAGIC or (frame := framed(value)) is None:
                if name in ("auto", "json"):
                    return plain(value)
                message = f"it names no schema, as {name} does (byte 0, the schema's id in four bytes)"
                raise RecordError(DeadLetterCode.UNKNOWN_SCHEMA, message)
            if name == "json":
                return plain(value[frame.begin :])
            return convert(book.read(value, frame), kind)

        return decode

    def naming_schema(self, error: RecordError, value: bytes | None) -> RecordError:
        """The same error, which says the schema that its value names."""
        frame = framed(value)
        known = None if frame is None else self.book.known.get(frame.id)
        if known is None or known.name in error.message:
            return error
        return RecordError(error.code, f"{error.message} ({known.name})", error.field)


PLAIN = Format("auto", SchemaBook())

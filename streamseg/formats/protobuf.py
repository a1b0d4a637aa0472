"""Protobuf: payloads to objects. The only place of the core that imports google.protobuf.

Fields are called as in the .proto file. A field without presence that is not there has its type's default, as the
specification says: https://protobuf.dev/programming-guides/field_presence/.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from streamseg.errors import DeadLetterCode, RecordError

_MOST_INDEXES = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Those that JSON is put into.
_OF_ANY_SHAPE = frozenset({"google.protobuf.Struct", "google.protobuf.Value"})
_TIMESTAMP, _WRAPPERS = "google.protobuf.Timestamp", "google.protobuf."
Get = Callable[[Any], Any]


def reader_of(body: bytes, name: str, wanted: frozenset[str]) -> Callable[[bytes], Any]:
    """Reads payloads of a schema. `body`: of KnownSchema; `wanted`: the outermost fields that are read."""
    files = descriptor_pb2.FileDescriptorSet.FromString(body).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    messages = list(pool.FindFileByName(files[-1].name).message_types_by_name.values())
    by_indexes: dict[tuple[int, ...], tuple[Any, Get]] = {}

    def reader(payload: bytes) -> Any:
        try:
            indexes, begin = _indexes(payload)
            found = by_indexes.get(indexes)
            if found is None:
                kind = _message(messages, indexes)
                found = by_indexes[indexes] = (message_factory.GetMessageClass(kind), _object_of(kind, wanted, 0))
            made, read = found
            return read(made.FromString(payload[begin:]))
        except Exception as error:  # noqa: BLE001 - of any kind, on bytes of any kind
            message = f"it is no Protobuf of {name}: {type(error).__name__} {error}".rstrip()
            raise RecordError(DeadLetterCode.NOT_OF_SCHEMA, message) from None

    return reader


def _indexes(payload: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the schema it is, and where the message begins. Raises ValueError, IndexError."""
    count, at = _zigzag(payload, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise ValueError(f"{count} message indexes")
    # The first message of a schema, which is most common, is written as a zero alone.
    found = [] if count else [0]
    for _ in range(count):
        index, at = _zigzag(payload, at)
        found.append(index)
    return tuple(found), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise ValueError("a message index does not end")


def _message(messages: list[Descriptor], indexes: tuple[int, ...]) -> Descriptor:
    found, among = None, messages
    for index in indexes:
        if not 0 <= index < len(among):
            raise ValueError(f"the schema has no message {list(indexes)}")
        found = among[index]
        among = list(found.nested_types)
    assert found is not None
    return found


_DEEPEST = 16


def _object_of(kind: Descriptor, wanted: frozenset[str], depth: int) -> Get:
    """A function from a message to an object of its fields."""
    plan = [
        (field.name, field.has_presence, _value_of(field, depth))
        for field in kind.fields
        if depth or not wanted or field.name in wanted
    ]

    def read(message: Any) -> dict[str, Any]:
        out = {}
        for name, has_presence, convert in plan:
            if has_presence and not message.HasField(name):
                continue
            value = getattr(message, name)
            out[name] = value if convert is None else convert(value)
        return out

    return read


def _value_of(field: FieldDescriptor, depth: int) -> Get | None:
    """How a field's value becomes one of JSON; None where it is one."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return _map_of(kind, depth)
    if field.is_repeated:
        # Neither a number nor a text: what is configured for it says so.
        return lambda values: [str(value) for value in values]
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: value.decode(errors="backslashreplace")
    if kind is None:
        return None
    name = kind.full_name
    if name in _OF_ANY_SHAPE:
        return json_format.MessageToDict
    if name == _TIMESTAMP:
        return _time
    if name.startswith(_WRAPPERS) and name.endswith("Value") and "value" in kind.fields_by_name:
        return lambda message: message.value
    if depth >= _DEEPEST:
        return str
    nested: list[Get] = []

    def read(message: Any) -> Any:
        # Made when it is met: messages may hold themselves.
        if not nested:
            nested.append(_object_of(kind, frozenset(), depth + 1))
        return nested[0](message)

    return read


def _map_of(entry: Descriptor, depth: int) -> Get:
    """A map as an object, its keys as texts."""
    convert = _value_of(entry.fields_by_name["value"], depth + 1)
    return lambda values: {str(key): value if convert is None else convert(value) for key, value in values.items()}


def _time(message: Any) -> str:
    try:
        return (_EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)).isoformat()
    except OverflowError:
        return f"{message.seconds} s since 1970"

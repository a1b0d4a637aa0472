"""Values that name their schema: bytes of confluent-kafka's own serializers, through a registry, to columns."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.formats.events import Decoded, EventDecoder, Rejected
from streamseg.formats.wire import KnownSchema, SchemaBook, framed
from streamseg.transports.kafka.opening import Opening
from streamseg.transports.registry import Registry, RegistryAccess, descriptors_of
from tests.harness import settings_for
from tests.inputs import NOW_US, times
from tests.registry import SmallRegistry
from tests.registry import registry as registry

JAN_2_MS = 1_704_189_600_000
JAN_2 = "2024-01-02T10:00:00"
AVRO = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "customer_id", "type": ["string", "long"]},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "age", "type": ["null", "double"], "default": None},
        {"name": "plan", "type": ["null", {"type": "enum", "name": "Plan", "symbols": ["free", "gold"]}], "default": None},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
PROTO = """syntax = "proto3";
package shop;
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "shop/money.proto";
message Other { string x = 1; }
message Event {
  enum Plan { FREE = 0; GOLD = 1; }
  message Inner { double spend = 1; }
  string customer_id = 1;
  google.protobuf.Timestamp event_time = 2;
  optional double age = 3;
  Plan plan = 4;
  Inner inner = 5;
  google.protobuf.DoubleValue score = 6;
  shop.Money total = 7;
  repeated int32 many = 8;
  int64 visits = 9;
  map<string, double> carts = 10;
  map<int32, Inner> shops = 11;
  google.protobuf.Struct traits = 12;
}
"""
MONEY = 'syntax = "proto3";\npackage shop;\nmessage Money { int64 cents = 1; }\n'
CONTEXT = SerializationContext("events", MessageField.VALUE)


def decoder(features: Sequence[Any] = ("age",), **of_input: Any) -> EventDecoder:
    given = [one if isinstance(one, dict) else {"name": one} for one in features]
    return EventDecoder(settings_for(features=given, input=of_input).fields)


def decoded(
    registry: SmallRegistry,
    values: Sequence[bytes | None],
    made: EventDecoder | None = None,
    keys: Sequence[bytes | None] = (),
    at_ms: int | None = None,
) -> tuple[Decoded, list[Rejected]]:
    made, keys = made or decoder(), keys or [None] * len(values)
    made.book.learn(Registry(RegistryAccess(registry.url)).fetch(made.book.lacking([*values, *keys])))
    return made.decode(keys, values, [at_ms] * len(values), NOW_US)


def avro(registry: SmallRegistry, schema: Any = AVRO, **serializer: Any) -> AvroSerializer:
    made: AvroSerializer = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(schema), **serializer)
    return made


def test_avro_is_read_by_the_schema_that_each_value_names(registry: SmallRegistry) -> None:
    newer = {**AVRO, "fields": [{"name": "shop", "type": "string", "default": ""}, *AVRO["fields"]]}
    old, new = avro(registry), avro(registry, newer)
    row: dict[str, Any] = {"event_time": datetime(2024, 1, 2, 10, tzinfo=UTC), "age": 41.5, "plan": "gold"}
    values = [
        old({"customer_id": "c1", **row}, CONTEXT),
        new({"customer_id": 7, "shop": "x", **row}, CONTEXT),
        old({"customer_id": "c3", "event_time": row["event_time"]}, CONTEXT),
        b'{"customer_id": "plain", "event_time": %d}' % JAN_2_MS,
    ]
    found, rejected = decoded(registry, values, decoder(["age", {"name": "plan", "one_hot": ["free", "gold"]}]))
    assert rejected == []
    assert found.ids == ["c1", "7", "c3", "plain"]
    assert times(found) == [JAN_2] * 4
    assert found.numbers["age"].tolist()[:2] == [41.5, 41.5]
    assert found.texts["plan"] == ["gold", "gold", None, None]


@pytest.mark.parametrize(
    ("kind", "value", "feature", "expected"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}, Decimal("12.25"), "number", 12.25),
        ({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 0}, Decimal(12), "number", 12.0),
        ("float", 0.5, "number", 0.5),
        ("int", 3, "number", 3.0),
        ("string", " 4.5 ", "number", 4.5),
        ("boolean", True, "text", "true"),
        ({"type": "string", "logicalType": "uuid"}, UUID(int=7), "text", str(UUID(int=7))),
        ({"type": "int", "logicalType": "date"}, date(2024, 1, 2), "text", "2024-01-02"),
        ("bytes", "é".encode(), "text", "é"),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "text", "ab"),
        ({"type": "record", "name": "R", "fields": [{"name": "v", "type": "double"}]}, {"v": 2.5}, "nested", 2.5),
    ],
)
def test_types_of_avro_follow_the_rules_of_json(
    registry: SmallRegistry, kind: Any, value: Any, feature: str, expected: Any
) -> None:
    fields = [{"name": "customer_id", "type": "string"}, {"name": "v", "type": ["null", kind]}]
    serialize = avro(registry, {"type": "record", "name": "E", "fields": fields})
    field = "v.v" if feature == "nested" else "v"
    made = decoder([{"name": "v", "one_hot": ["x", "y"]} if feature == "text" else {"name": "v", "field": field}])
    values = [serialize({"customer_id": "c", "v": one}, CONTEXT) for one in (value, None)]
    found, rejected = decoded(registry, values, made, at_ms=JAN_2_MS)
    assert rejected == []
    column = found.texts["v"] if feature == "text" else found.numbers[field].tolist()
    assert column[0] == expected
    assert column[1] is None or column[1] != column[1]


@pytest.mark.parametrize(
    ("logical", "kind", "value"),
    [
        ("timestamp-millis", "long", datetime(2024, 1, 2, 10, tzinfo=UTC)),
        ("timestamp-micros", "long", datetime(2024, 1, 2, 10, tzinfo=UTC)),
        ("local-timestamp-millis", "long", datetime(2024, 1, 2, 10)),
        (None, "long", JAN_2_MS),
        (None, "string", "2024-01-02T10:00:00Z"),
        (None, "double", 1_704_189_600.0),
    ],
)
def test_times_of_avro(registry: SmallRegistry, logical: str | None, kind: str, value: Any) -> None:
    of_time = {"type": kind, "logicalType": logical} if logical else kind
    fields = [{"name": "customer_id", "type": "string"}, {"name": "event_time", "type": of_time}]
    serialize = avro(registry, {"type": "record", "name": "E", "fields": fields})
    found, rejected = decoded(registry, [serialize({"customer_id": "c", "event_time": value}, CONTEXT)])
    assert rejected == []
    assert times(found) == [JAN_2]


def test_references_between_avro_schemas(registry: SmallRegistry) -> None:
    money = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "cents", "type": "long"}]}
    registry.register("money", json.dumps(money))
    fields = [{"name": "customer_id", "type": "string"}, {"name": "total", "type": "shop.Money"}]
    event = {"type": "record", "name": "E", "fields": fields}
    number = registry.register("e", json.dumps(event), references=[{"name": "shop.Money", "subject": "money", "version": 1}])
    out = BytesIO()
    named: dict[str, Any] = {}
    fastavro.parse_schema(money, named_schemas=named)
    parsed = fastavro.parse_schema(event, named_schemas=named)
    fastavro.schemaless_writer(out, parsed, {"customer_id": "c", "total": {"cents": 250}})
    value = b"\0" + number.to_bytes(4, "big") + out.getvalue()
    made = decoder([{"name": "spend", "field": "total.cents"}])
    found, rejected = decoded(registry, [value], made, at_ms=JAN_2_MS)
    assert rejected == []
    assert found.numbers["total.cents"].tolist() == [250.0]


def messages() -> dict[str, Any]:
    """Classes of the messages in PROTO, compiled as a producer would."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors_of(PROTO, {"shop/money.proto": MONEY}))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))
        for name in ("Other", "Event", "Event.Inner", "Money")
    }


def event_of(made: dict[str, Any]) -> Any:
    message = made["Event"](customer_id="c1", plan=1, visits=3)
    message.event_time.FromDatetime(datetime(2024, 1, 2, 10, tzinfo=UTC))
    message.age, message.inner.spend, message.score.value, message.total.cents = 41.5, 2.5, 0.0, 250
    message.many.extend([1, 2])
    message.carts["web"], message.shops[7].spend = 1.5, 4.5
    message.traits.update({"plan": {"seats": 12}})
    return message


def registered_proto(registry: SmallRegistry) -> int:
    registry.register("shop/money.proto", MONEY, "PROTOBUF")
    reference = {"name": "shop/money.proto", "subject": "shop/money.proto", "version": 1}
    return registry.register("events-value", PROTO, "PROTOBUF", [reference])


FEATURES = [
    {"name": "age"},
    {"name": "spend", "field": "inner.spend"},
    {"name": "score"},
    {"name": "cents", "field": "total.cents"},
    {"name": "visits"},
    {"name": "carts.web"},
    {"name": "shops.7.spend"},
    {"name": "traits.plan.seats"},
    {"name": "plan", "one_hot": ["FREE", "GOLD"]},
]


@pytest.mark.parametrize("registered", ["text", "descriptor"])
def test_protobuf_by_the_text_that_java_registers_and_the_descriptor_that_python_does(
    registry: SmallRegistry, registered: str
) -> None:
    made = messages()
    sparse = made["Event"](customer_id="c2", event_time=event_of(made).event_time)
    events = (event_of(made), sparse)
    if registered == "text":
        # Message 1 of the schema: one index, zigzag.
        head = b"\0" + registered_proto(registry).to_bytes(4, "big") + b"\x02\x02"
        values = [head + one.SerializeToString() for one in events]
    else:
        client = SchemaRegistryClient({"url": registry.url})
        serialize = ProtobufSerializer(made["Event"], client, {"use.deprecated.format": False})
        values = [serialize(one, CONTEXT) for one in events]
    found, rejected = decoded(registry, values, decoder(FEATURES))
    assert rejected == []
    assert (found.ids, times(found)) == (["c1", "c2"], [JAN_2] * 2)
    first = {name: column.tolist()[0] for name, column in found.numbers.items()}
    of_one = {"age": 41.5, "inner.spend": 2.5, "score": 0.0, "total.cents": 250.0, "visits": 3.0}
    assert first == of_one | {"carts.web": 1.5, "shops.7.spend": 4.5, "traits.plan.seats": 12.0}
    second = {name for name, column in found.numbers.items() if column[1] == column[1]}
    assert second == {"visits"}, "a field without presence has its default"
    assert found.texts["plan"] == ["GOLD", "FREE"]


@pytest.mark.parametrize(
    "indexes", [b"\x00", b"\x02\x00", b"\x02\x0e", b"\x04\x02\x00", b"\xff\xff\xff\xff\x0f", b"", b"\x03"]
)
def test_an_unknown_message_type_is_a_dead_letter(registry: SmallRegistry, indexes: bytes) -> None:
    value = b"\0" + registered_proto(registry).to_bytes(4, "big") + indexes + event_of(messages()).SerializeToString()
    _, (rejected,) = decoded(registry, [value])
    assert rejected.error.code in ("not_of_schema", "missing_customer_id", "missing_time")
    assert indexes in (b"\x00", b"\x02\x00", b"\x04\x02\x00") or rejected.error.code == "not_of_schema"


def test_json_schema(registry: SmallRegistry) -> None:
    schema = json.dumps({"title": "Event", "type": "object", "properties": {"customer_id": {"type": "string"}}})
    serialize = JSONSerializer(schema, SchemaRegistryClient({"url": registry.url}))
    value = serialize({"customer_id": "c1", "event_time": JAN_2_MS, "age": 3}, CONTEXT)
    for name in ("auto", "json"):
        found, rejected = decoded(registry, [value], decoder(format=name))
        assert (found.ids, found.numbers["age"].tolist(), rejected) == (["c1"], [3.0], [])


def test_a_schema_s_guid_in_a_header(registry: SmallRegistry) -> None:
    headers: list[tuple[str, str | bytes | None]] = []
    serialize = avro(registry, conf={"schema.id.serializer": header_schema_id_serializer})
    context = SerializationContext("events", MessageField.VALUE, headers)
    bare = serialize({"customer_id": "c1", "event_time": datetime(2024, 1, 2, 10, tzinfo=UTC), "age": 3.0}, context)
    assert [name for name, _ in headers] == ["__value_schema_id"]
    value = Opening().opened(bare, None, [(name, text) for name, text in headers if isinstance(text, bytes)])
    found, rejected = decoded(registry, [value])
    assert (found.ids, found.numbers["age"].tolist(), rejected) == (["c1"], [3.0], [])
    assert any("/schemas/guids/" in path for path in registry.asked[-2:])


def test_keys_of_a_registry_erase_their_customer(registry: SmallRegistry) -> None:
    client = SchemaRegistryClient({"url": registry.url})
    key = SerializationContext("events", MessageField.KEY)
    fields = [{"name": "customer_id", "type": "long"}, {"name": "shop", "type": "int"}]
    record = json.dumps({"type": "record", "name": "K", "fields": fields})
    text = AvroSerializer(client, '"string"')
    row = AvroSerializer(client, record, conf={"subject.name.strategy": lambda *_: "k2"})
    keys: list[bytes | None] = [text("c7", key), row({"customer_id": 8, "shop": 1}, key), b"c9"]
    found, (rejected,) = decoded(registry, [None] * 3, decoder(key_format="avro"), keys)
    assert (found.ids, found.erase.tolist()) == (["c7", "8"], [True, True])
    assert (rejected.at, rejected.error.code) == (2, "unknown_schema")


def test_what_names_no_schema_or_an_unknown_one_is_a_dead_letter(registry: SmallRegistry) -> None:
    values: list[bytes | None] = [b'{"customer_id": "c"}', b"\0\0\0\x27\x0fabc", b"\0\0", b""]
    found, rejected = decoded(registry, values, decoder(format="avro"))
    assert found.ids == []
    assert {one.error.code.value for one in rejected} == {"unknown_schema"}
    assert "schema id 9999" in rejected[1].error.message
    assert registry.url in rejected[1].error.message


def test_what_is_wrong_with_an_event_is_said_with_its_schema(registry: SmallRegistry) -> None:
    fields = [{"name": "customer_id", "type": "string"}, {"name": "age", "type": ["double", "string"]}]
    write = avro(registry, {"type": "record", "name": "Event", "fields": fields})
    values = [write({"customer_id": "c", "age": "many"}, CONTEXT), write({"customer_id": "", "age": 1.0}, CONTEXT)]
    found, rejected = decoded(registry, values, at_ms=JAN_2_MS)
    assert found.ids == []
    assert [(one.error.code.value, one.error.field) for one in rejected] == [
        ("wrong_type", "age"),
        ("missing_customer_id", "customer_id"),
    ]
    for one in rejected:
        assert one.error.message.endswith(f"(schema id 1 ({CONTEXT.topic}-value version 1))")


@pytest.mark.parametrize("default", ["x", {}])
def test_a_schema_that_does_not_compile_is_a_dead_letter(registry: SmallRegistry, default: Any) -> None:
    broken = {"type": "record", "name": "E", "fields": [{"name": "age", "type": "nowhere", "default": default}]}
    number = registry.register("s", json.dumps(broken))
    _, (rejected,) = decoded(registry, [b"\0" + number.to_bytes(4, "big") + b"abc"])
    assert rejected.error.code == "unknown_schema"
    assert "cannot be compiled" in rejected.error.message


@pytest.mark.parametrize(
    "kind",
    [
        ["null", "N"],
        {"type": "array", "items": "N"},
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}},
    ],
)
def test_schemas_of_which_a_few_bytes_may_be_any_value_are_not_read(registry: SmallRegistry, kind: Any) -> None:
    fields = [{"name": "customer_id", "type": "string"}, {"name": "next", "type": kind}]
    number = registry.register("s", json.dumps({"type": "record", "name": "N", "fields": fields}))
    _, (rejected,) = decoded(registry, [b"\0" + number.to_bytes(4, "big") + b"\2c" + b"\2\2c" * 20_000])
    assert rejected.error.code == "unknown_schema"
    assert "such schemas are not read" in rejected.error.message


_BOOK = SchemaBook(["customer_id", "age", "event_time", "plan", "note"])
_BOOK.learn([KnownSchema((1).to_bytes(4, "big"), "avro", json.dumps([AVRO]).encode())])
_BOOK.learn([KnownSchema((2).to_bytes(4, "big"), "protobuf", descriptors_of(PROTO, {"shop/money.proto": MONEY}))])


@given(st.sampled_from([b"\0\0\0\0\1", b"\0\0\0\0\2\2\2", b"\0\0\0\0\2"]), st.binary(max_size=60))
@settings(max_examples=300)
def test_bytes_of_any_kind_are_an_event_or_a_dead_letter(head: bytes, rest: bytes) -> None:
    """Where the reference decoder reads the bytes, the same value is read; where it does not, it is a dead letter."""
    made = EventDecoder(settings_for(features=[{"name": "age"}]).fields, book=_BOOK)
    found, rejected = made.decode([None], [head + rest], [JAN_2_MS], NOW_US)
    assert len(found.ids) + len(rejected) == 1
    if head[4] == 1:
        try:
            expected: Any = fastavro.schemaless_reader(BytesIO(rest), fastavro.parse_schema(AVRO), None)
        except Exception:  # noqa: BLE001 - whatever it raises
            assert rejected[0].error.code == "not_of_schema"
            return
        if found.ids:
            age, same = found.numbers["age"].tolist()[0], expected["age"]
            assert found.ids == [str(expected["customer_id"])]
            assert age == same or (math.isnan(age) and (same is None or math.isnan(same)))


def test_framing_is_told_from_json() -> None:
    assert framed(b'{"a": 1}') is None
    assert framed(b"") is None
    assert framed(None) is None
    assert framed(b"\0\0\0\0\7x") == ((7).to_bytes(4, "big"), 5)
    assert framed(b"\1" + bytes(16) + b"x") == (bytes(16), 17)


@pytest.mark.exhaustive
def test_a_million_values_of_any_bytes_are_read_as_the_reference_decoders_read_them() -> None:
    """Events with bytes changed, cut off and added: each is an event or a dead letter, with the reference's values."""
    rng = random.Random(1)
    schema = fastavro.parse_schema(AVRO)
    out = BytesIO()
    event = {"customer_id": "c1", "event_time": datetime(2024, 1, 2, tzinfo=UTC), "age": 41.5, "plan": "gold", "note": "x"}
    fastavro.schemaless_writer(out, schema, event)
    message = event_of(messages())
    seeds = [(b"\0\0\0\0\1", out.getvalue()), (b"\0\0\0\0\2", b"\2\2" + message.SerializeToString())]
    made = EventDecoder(settings_for(features=[{"name": "age"}]).fields, book=_BOOK)
    made.decode([None] * 2, [head + seed for head, seed in seeds], [JAN_2_MS] * 2, NOW_US)
    for _ in range(1_000):
        values = [_spoiled(rng, *seeds[rng.randrange(2)]) for _ in range(1_000)]
        found, rejected = made.decode([None] * 1_000, values, [JAN_2_MS] * 1_000, NOW_US)
        assert sorted([*found.at.tolist(), *(one.at for one in rejected)]) == list(range(1_000))
        ages = found.numbers["age"].tolist()
        for at, customer, age in zip(found.at.tolist(), found.ids, ages, strict=True):
            same = _reference(schema, message, values[at])
            assert customer == str(same[0])
            assert age == same[1] or (math.isnan(age) and (same[1] is None or math.isnan(same[1])))


def _spoiled(rng: random.Random, head: bytes, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randrange(4)):
        what, at = rng.randrange(3), rng.randrange(len(data) + 1)
        if what == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif what == 1:
            del data[at:]
        else:
            data[at:at] = rng.randbytes(rng.randrange(3))
    return head + bytes(data)


def _reference(schema: Any, message: Any, value: bytes) -> tuple[Any, float | None]:
    if value[4] == 1:
        found: Any = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
        return found["customer_id"], found["age"]
    read = type(message).FromString(value[7:])
    return read.customer_id, read.age if read.HasField("age") else None

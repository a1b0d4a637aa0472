"""Events of Segment, CloudEvents and Debezium, of the shape that their specifications print, without any other setting."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamseg.config import Config
from streamseg.engine.ports import Topic
from streamseg.formats.events import Decoded, EventDecoder, Rejected
from streamseg.formats.keys import KeyFormat
from streamseg.transports.kafka.opening import Opening, structured
from tests.harness import Event, published, run_memory, settings_for, verified

NOW_US = 1_800_000_000_000_000


def decode(preset: str, *records: tuple[Any, Any], **config: Any) -> tuple[Decoded, list[Rejected]]:
    """Records as (key, value), each JSON."""
    of_input = {"preset": preset} | config.pop("input", {})
    decoder = EventDecoder(Config.model_validate({"input": of_input, **config}).job_settings().fields)
    keys = [None if key is None else json.dumps(key).encode() for key, _ in records]
    values = [None if value is None else json.dumps(value).encode() for _, value in records]
    return decoder.decode(keys, values, [None] * len(values), NOW_US)


TRACK = {
    "anonymousId": "23adfd82-aa0f-45a7-a756-24f2a7a4c895",
    "context": {"library": {"name": "analytics.js", "version": "2.11.1"}, "ip": "108.0.78.21", "traits": {"age": 44}},
    "event": "Order Completed",
    "integrations": {},
    "messageId": "ajs-f8ca1e4de5024d9430b3928bd8ac6b96",
    "properties": {
        "order_id": "50314b8e9bcf000000000000",
        "income": 27.5,
        "purchases": 3,
        "products": [{"sku": "45790-32"}],
    },
    "receivedAt": "2024-12-12T19:11:01.266Z",
    "sentAt": "2024-12-12T19:11:01.169Z",
    "timestamp": "2024-12-12T19:11:01.249Z",
    "type": "track",
    "userId": "AiUGstSDIg",
    "originalTimestamp": "2024-12-12T19:11:01.152Z",
}
IDENTIFY = {
    "context": {"ip": "24.5.68.47"},
    "messageId": "022bb90c-bbac-11e4-8dfc-aa07a5b093db",
    "timestamp": "2024-02-23T22:28:55.111Z",
    "traits": {"name": "Peter Gibbons", "age": 33, "income": "81000", "purchases": 2, "address": []},
    "type": "identify",
    "userId": "97980cfea0067",
}
PAGE = {
    "type": "page",
    "userId": "97980cfea0067",
    "timestamp": "2024-02-23T22:30:00.000Z",
    "properties": {"title": "Welcome"},
    "name": "Home",
    "messageId": "m3",
}


def test_segments_of_segment_need_no_path() -> None:
    decoded, rejected = decode("segment", (None, TRACK), (None, IDENTIFY), (None, PAGE))
    assert rejected == []
    assert decoded.ids == ["AiUGstSDIg", "97980cfea0067", "97980cfea0067"]
    assert decoded.event_ids == ["ajs-f8ca1e4de5024d9430b3928bd8ac6b96", "022bb90c-bbac-11e4-8dfc-aa07a5b093db", "m3"]
    assert [pd.Timestamp(int(t), unit="us").isoformat() for t in decoded.times] == [
        "2024-12-12T19:11:01.249000", "2024-02-23T22:28:55.111000", "2024-02-23T22:30:00"]  # fmt: skip
    assert decoded.numbers["age"].tolist()[:2] == [44.0, 33.0]
    assert decoded.numbers["income"].tolist()[:2] == [27.5, 81_000.0]
    assert np.isnan(decoded.numbers["age"][2])


def test_orders_are_counted_in_a_stream_of_segment() -> None:
    features = [
        {"name": "orders", "aggregate": "count", "where": {"event": "Order Completed"}},
        {"name": "age"},
    ]
    decoded, _ = decode("segment", (None, TRACK), (None, PAGE), features=features, input={"where": {"type": ["track"]}})
    assert decoded.ids == ["AiUGstSDIg"]
    assert decoded.numbers["orders, of some events"].tolist() == [1.0]


def test_a_path_of_ones_own_comes_before_that_of_a_preset() -> None:
    decoded, _ = decode("segment", (None, TRACK), (None, IDENTIFY), input={"customer_id": "order_id"})
    assert decoded.ids == ["50314b8e9bcf000000000000", "97980cfea0067"]


CLOUD = {
    "specversion": "1.0",
    "type": "com.example.order.placed",
    "source": "https://example.com/shop",
    "subject": "customer-123",
    "id": "A234-1234-1234",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "datacontenttype": "application/json",
    "data": {"age": 30, "income": 4, "purchases": 5},
}


def test_cloud_events_in_structured_mode() -> None:
    named = CLOUD | {"data": {"customer_id": 7, "age": 31, "event_time": 1700000000}, "id": "2"}
    decoded, rejected = decode("cloudevents", (None, CLOUD), (None, named))
    assert rejected == []
    assert decoded.ids == ["customer-123", "7"]
    assert decoded.event_ids == ["A234-1234-1234", "2"]
    assert decoded.times.tolist() == [1_522_949_460_000_000, 1_700_000_000_000_000]
    assert decoded.numbers["age"].tolist() == [30.0, 31.0]


def test_cloud_events_in_binary_mode_are_read_as_in_structured_mode() -> None:
    headers = [
        ("ce_" + name, str(value).encode()) for name, value in CLOUD.items() if name not in ("data", "datacontenttype")
    ]
    headers.append(("content-type", b"application/json"))
    body = json.dumps(CLOUD["data"]).encode()
    decoder = EventDecoder(Config.model_validate({"input": {"preset": "cloudevents"}}).job_settings().fields)
    values = [structured(body, headers), structured(body, None), structured(None, headers), structured(b"{broken", headers)]
    assert values[1:3] == [body, None]
    decoded, rejected = decoder.decode([None, None, b"k", None], values, [None] * 4, NOW_US)
    assert decoded.ids == ["customer-123", "k"]
    assert decoded.event_ids == ["A234-1234-1234", None]
    assert decoded.times.tolist()[0] == 1_522_949_460_000_000
    assert decoded.numbers["age"].tolist()[0] == 30.0
    assert [(one.at, one.error.code) for one in rejected] == [(1, "missing_customer_id"), (3, "not_json")]


def change(op: str, before: Any, after: Any, *, wrapped: bool) -> dict[str, Any]:
    body = {
        "before": before,
        "after": after,
        "source": {"version": "2.7.3.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1559033904863, "db": "shop",
                   "schema": "public", "table": "customers", "txId": 555, "lsn": 24023128},
        "op": op,
        "ts_ms": 1559033904961,
    }  # fmt: skip
    return {"schema": {"type": "struct", "fields": []}, "payload": body} if wrapped else body


@pytest.mark.parametrize(
    ("paths", "key_format", "key", "headers", "value", "expected"),
    [
        (["key"], "string", b"c7", None, b'{"age": 1}', {"key": "c7", "age": 1}),
        (["key"], "long", (7).to_bytes(8, "big"), None, b"{}", {"key": 7}),
        (["key.id", "age"], "json", b'{"id": 8, "x": 1}', None, b'{"age": 1}', {"key": {"id": 8, "x": 1}, "age": 1}),
        (["key.id"], "json", b"no json", None, b'{"age": 1}', {"key": None, "age": 1}),
        (["key"], "string", b"c7", None, b'{"key": "own"}', {"key": "own"}),
        (["headers.s"], "string", None, [("s", b"web"), ("t", b"x")], b' {"a": 1}', {"headers": {"s": "web"}, "a": 1}),
        (["headers.s"], "string", None, None, b'{"a": 1}', {"headers": {}, "a": 1}),
        (["age"], "string", b"c7", [("s", b"web")], b'{"a": 1}', {"a": 1}),
    ],
)
def test_fields_may_be_in_the_key_and_in_headers(
    paths: list[str], key_format: KeyFormat, key: bytes | None, headers: Any, value: bytes, expected: dict[str, Any]
) -> None:
    opening = Opening.of(paths, key_format, cloud_events=False)
    assert json.loads(opening.opened(value, key, headers) or b"") == expected
    assert opening.opened(None, key, headers) is None
    assert opening.opened(b"[1]", key, headers) == b"[1]"


def test_what_a_record_becomes_does_not_depend_on_the_others_of_its_poll() -> None:
    opening = Opening.of(["headers.source"], "string", cloud_events=False)
    bare = SimpleNamespace(key=None, value=b'{"age": 1}', headers=[])
    other = SimpleNamespace(key=None, value=b"{}", headers=[("source", b"shop")])
    assert opening.of_all([bare, other])[0] == opening.of_all([bare])[0]


def test_a_customer_in_the_key_is_tagged_and_erased() -> None:
    given = {"customer_id": "key.id", "key_format": "json", "where": {"headers.source": "shop"}}
    fields = Config.model_validate({"input": given, "features": [{"name": "age"}]}).job_settings().fields
    opening = Opening.of(fields.paths, fields.key_format, cloud_events=False)
    key, shop, web = b'{"id": 8}', [("source", b"shop")], [("source", b"web")]
    values = [opening.opened(value, key, headers) for value, headers in [(b'{"age": 3}', shop), (b"{}", web), (None, None)]]
    decoded, rejected = EventDecoder(fields).decode([key] * 3, values, [NOW_US // 1_000] * 3, NOW_US)
    assert (decoded.ids, decoded.erase.tolist(), rejected) == (["8", "8"], [False, True], [])


@pytest.mark.parametrize("wrapped", [True, False])
def test_changes_of_debezium(wrapped: bool) -> None:
    row = {"customer_id": 1004, "age": 41, "income": 5, "purchases": 1}

    def key(**fields: Any) -> dict[str, Any]:
        return {"schema": {"type": "struct"}, "payload": fields} if wrapped else fields

    decoded, rejected = decode(
        "debezium",
        (key(customer_id=1004), change("r", None, row, wrapped=wrapped)),
        (key(customer_id=1004), change("u", row, row | {"age": 42}, wrapped=wrapped)),
        (key(customer_id=1004), change("d", row, None, wrapped=wrapped)),
        (key(customer_id=1004), None),
        # An order's row: deleting it is not about its customer.
        (key(order_id=1004), change("c", None, row, wrapped=wrapped)),
        (key(order_id=1004), change("d", row, None, wrapped=wrapped)),
        (key(order_id=1004), None),
        (None, change("t", None, None, wrapped=wrapped)),
        (None, change("d", {"customer_id": 5}, None, wrapped=wrapped)),
        (key(customer_id=1005), change("c", None, row | {"customer_id": 1005, "age": "x"}, wrapped=wrapped)),
    )
    assert decoded.ids == ["1004"] * 5
    assert decoded.at.tolist() == [0, 1, 2, 3, 4]
    assert decoded.erase.tolist() == [False, False, True, True, False]
    assert decoded.numbers["age"].tolist()[:2] == [41.0, 42.0]
    assert decoded.times.tolist()[:2] == [1_559_033_904_863_000] * 2
    assert [(one.at, one.error.code) for one in rejected] == [(9, "wrong_type")]


def test_a_table_of_customers_is_followed_and_deleted_rows_are_erased() -> None:
    job = settings_for(input={"preset": "debezium"}, features=[{"name": "age"}], model={"segments": 2, "warm_up": 10})
    events: list[Event] = []
    for i in range(200):
        row = {"customer_id": i % 20, "age": 20 + 30 * (i % 2)}
        events.append(
            (json.dumps({"customer_id": i % 20}).encode(), json.dumps(change("u", row, row, wrapped=False)).encode(), None)
        )
    key = b'{"customer_id": 3}'
    events += [(key, json.dumps(change("d", {"customer_id": 3}, None, wrapped=False)).encode(), None), (key, None, None)]
    store, _ = run_memory(events, job, batch_records=50)
    assert sum(value is None for value in published(store, Topic.ASSIGNMENTS)) == 1
    assert not verified(store, job).lost


def test_a_record_of_a_schema_registry_is_named() -> None:
    decoder = EventDecoder(Config().job_settings().fields)
    _, (rejected,) = decoder.decode([None], [b"\x00\x00\x00\x00\x07\x06abc"], [None], NOW_US)
    assert rejected.error.code == "unknown_schema"
    assert "schema id 7" in rejected.error.message

"""Tombstones of any serializer erase the customer whom their key names, or nobody."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest

from streamseg.engine.events import BatchCommitted
from streamseg.engine.ports import Topic
from streamseg.errors import RecordError
from streamseg.formats.keys import KeyFormat, id_in_key
from streamseg.formats.wire import SchemaBook
from streamseg.observability.logs import JsonLog
from streamseg.observability.metrics import Metrics
from tests.harness import event, published, run_memory, settings_for, verified


@pytest.mark.parametrize(
    ("key", "kind", "customer"),
    [
        (b"7", "string", "7"),
        (b'"7"', "string", '"7"'),
        (b'"7"', "json", "7"),
        (b"7", "json", 7),
        (b"7.0", "json", 7),
        (b'{"id": 8}', "json", 8),
        (b'{"customer_id": "c8", "shop": 1}', "json", "c8"),
        ((8).to_bytes(8, "big"), "long", 8),
        ((-8).to_bytes(8, "big", signed=True), "long", -8),
    ],
)
def test_keys_name_customers_as_their_producers_write_them(key: bytes, kind: KeyFormat, customer: str | int) -> None:
    assert id_in_key(key, kind, "user.customer_id", SchemaBook()) == customer


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        (None, "string", "missing_customer_id"),
        (b"", "json", "missing_customer_id"),
        (b"7", "none", "missing_customer_id"),
        (b"\xff", "string", "not_utf8"),
        (b"\xff", "json", "not_json"),
        (b"seven", "json", "not_json"),
        (b"1.5", "json", "wrong_type"),
        (b"null", "json", "missing_customer_id"),
        (b'{"a": 1, "b": 2}', "json", "missing_customer_id"),
        (b"7", "long", "wrong_type"),
    ],
)
def test_keys_that_name_nobody_are_dead_letters(key: bytes | None, kind: KeyFormat, code: str) -> None:
    with pytest.raises(RecordError) as error:
        id_in_key(key, kind, "customer_id", SchemaBook())
    assert error.value.code == code


def test_an_erasure_that_finds_nobody_is_counted_and_logged_and_publishes_nothing() -> None:
    job = settings_for(features=[{"name": "age"}], input={"key_format": "json"}, model={"segments": 2, "warm_up": 10})
    events = [event(f"c{i % 20}", float(i), age=20 + 30 * (i % 2)) for i in range(100)]
    events += [(b'{"id": "c3"}', None, None), (b'{"id": "nobody"}', None, None), event("c3", 200.0, age=20)]
    events += [event("c3", erase=True), event("c3", erase=True), event("new", 300.0, age=21), event("new", erase=True)]
    store, recorder = run_memory(events, job, batch_records=50)
    gone = Counter(value is None for value in published(store, Topic.ASSIGNMENTS))
    assert gone[True] == 3, "c3 twice, and the new one"
    stream, metrics = io.StringIO(), Metrics("events")
    log = JsonLog(stream, "shop")
    for batch in recorder.of(BatchCommitted):
        log.observe(batch)
        metrics.observe(batch)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(line["erasures"] for line in lines if line["event"] == "erasure_found_nobody") == 2
    assert metrics.registry.get_sample_value("streamseg_erasures_total", {"found": "true"}) == 3
    assert metrics.registry.get_sample_value("streamseg_erasures_total", {"found": "false"}) == 2
    assert sum(batch.outcomes["erased"] for batch in recorder.of(BatchCommitted)) == 5
    assert verified(store, job).lost is False

"""Which events are meant, of the input and of a feature."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from streamseg.config import Config, load
from streamseg.engine.events import BatchCommitted
from streamseg.errors import ConfigError
from streamseg.formats.events import EventDecoder
from tests.harness import T0_MS, Event, run_memory, settings_for, tags, verified

NOW_US = 1_800_000_000_000_000


def decode(config: dict[str, Any], *events: dict[str, Any]) -> Any:
    decoder = EventDecoder(Config.model_validate(config).job_settings().fields)
    values = [json.dumps({"event_time": T0_MS} | one).encode() for one in events]
    none = [None] * len(values)
    return decoder.decode(none, values, none, NOW_US)


def test_a_feature_counts_the_events_that_it_means() -> None:
    dear = {"event": ["Order Completed", "Refund"], "coupon": {"exists": True}}
    features = [
        {"name": "orders", "aggregate": "count", "where": {"event": "Order Completed"}},
        {"name": "spend", "field": "total", "aggregate": "sum", "where": dear},
        {"name": "total"},
        {"name": "vip", "field": "tier", "one_hot": ["gold", "none"], "where": {"level": 3}},
        {"name": "views", "aggregate": "count"},
    ]
    decoded, rejected = decode(
        {"features": features},
        {"customer_id": "a", "event": "Order Completed", "total": 5, "coupon": "x", "tier": "gold", "level": 3},
        {"customer_id": "a", "event": "Page Viewed", "total": 7, "coupon": "x", "tier": "gold", "level": "3"},
        {"customer_id": "a", "event": "Refund", "total": -5, "coupon": True, "tier": "gold", "level": 2},
        {"customer_id": "a", "event": "Refund", "total": -5, "tier": "gold"},
    )
    assert rejected == []
    assert decoded.numbers["orders, of some events"].tolist()[:1] == [1.0]
    assert [str(x) for x in decoded.numbers["orders, of some events"]] == ["1.0", "nan", "nan", "nan"]
    assert [str(x) for x in decoded.numbers["spend, of some events"]] == ["5.0", "nan", "-5.0", "nan"]
    assert decoded.numbers["total"].tolist() == [5.0, 7.0, -5.0, -5.0]
    assert decoded.texts["vip, of some events"] == ["gold", "gold", None, None]


def test_events_that_the_input_does_not_mean_are_dropped_whatever_is_wrong_with_them() -> None:
    config = {"input": {"where": {"type": ["track", "identify"]}}, "features": [{"name": "age"}]}
    decoded, rejected = decode(
        config,
        {"customer_id": "a", "type": "track", "age": 1},
        {"type": "page"},
        {"customer_id": "b", "type": "page", "event_time": "soon"},
        {"customer_id": "b", "age": "x"},
        {"customer_id": "c", "type": "track", "age": "x"},
        {"customer_id": "d", "erase": True},
        {"customer_id": "e", "type": {"x": 1}},
    )
    assert decoded.ids == ["a", "d"]
    assert decoded.at.tolist() == [0, 5]
    # What may be meant, and is wrong, stays visible.
    assert [(one.at, one.error.code) for one in rejected] == [(4, "wrong_type"), (6, "wrong_type")]


def test_dropped_records_are_counted_and_change_nothing() -> None:
    features = [{"name": "age"}, {"name": "orders", "aggregate": "count", "where": {"type": "order"}}]
    job = settings_for(
        features=features, input={"where": {"type": ["order", "visit"]}}, model={"segments": 2, "warm_up": 10}
    )
    events: list[Event] = []
    for i in range(400):
        kind = ("order", "visit", "click")[i % 3]
        body = {"customer_id": f"c{i % 20}", "event_time": T0_MS + i, "age": 20 + 30 * (i % 2), "type": kind}
        events.append((None, json.dumps(body).encode(), None))
    store, recorder = run_memory(events, job, batch_records=50)
    outcomes: Counter[str] = Counter()
    for batch in recorder.of(BatchCommitted):
        outcomes.update(batch.outcomes)
    assert outcomes["dropped"] == sum(i % 3 == 2 for i in range(400))
    assert outcomes.total() == 400
    assert {tag["source"]["offset"] % 3 for tag in tags(store) if tag and tag["source"]} == {0, 1}
    assert verified(store, job).records == 400


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ('{ event = { exists = false } }', "exists = true"),
        ("{ event = [] }", "no event would be meant"),
        ('{ "" = 1 }', "names a field"),
        ("{ age = 3 }", "is a number for one and a text for another, or for `where`"),
    ],
)  # fmt: skip
def test_a_where_that_means_nothing_is_refused(tmp_path: Any, where: str, said: str) -> None:
    (tmp_path / "streamseg.toml").write_text(
        f'[[features]]\nname = "age"\n[[features]]\nname = "n"\naggregate = "count"\nwhere = {where}\n'
    )
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "streamseg.toml", {}, {})

"""No record stops a job: one that the program raises on is a dead letter, and no other record is touched."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.engine.events import BatchCommitted
from streamseg.engine.ports import Topic
from streamseg.engine.verify import Verifier
from streamseg.formats.events import Decoded, EventDecoder, Rejected
from streamseg.observability.logs import JsonLog
from streamseg.observability.metrics import Metrics
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import (
    T0_MS,
    Event,
    FixedClock,
    Recorder,
    event,
    letters,
    produce,
    published,
    run_memory,
    settings_for,
    shoppers,
    tags,
)

JOB = settings_for(model={"segments": 3, "warm_up": 30})
POISON = b'{"customer_id":"poison","event_time":1700000000000,"age":1,"income":1,"purchases":1}'


class Fragile(EventDecoder):
    """A decoder with a defect: it raises on some records, with the customer's data in the message."""

    def decode(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int | None],
        now_us: int,
    ) -> tuple[Decoded, list[Rejected]]:
        for value in values:
            if value is not None and b"poison" in value:
                raise ZeroDivisionError(f"secret in {value!r}")
        return super().decode(keys, values, timestamps_ms, now_us)


def with_poison(events: list[Event], places: Sequence[int]) -> list[Event]:
    out = list(events)
    for place in sorted(places, reverse=True):
        out.insert(place, (None, POISON, None))
    return out


def run_fragile(events: list[Event], batch: int, *observers: Any) -> tuple[EmbeddedTransport, Recorder]:
    store, recorder = EmbeddedTransport(":memory:"), Recorder()
    produce(store, events)
    running = Loop(store, JOB, FixedClock(), recorder, threading.Event(), batch_records=batch)
    running._restore()
    running.job.decoder = Fragile(JOB.fields, JOB.max_record_bytes)
    running.run()
    for one in observers:
        for seen in recorder.events:
            one.observe(seen)
    return store, recorder


def bare(store: EmbeddedTransport) -> list[Any]:
    """Tags without what must differ: their offsets and times of assignment."""
    return [tag and {k: v for k, v in tag.items() if k not in ("source", "assigned_at")} for tag in tags(store)]


@pytest.mark.parametrize(("batch", "places"), [(10_000, [0]), (10_000, [150, 151, 299]), (10_000, range(0, 300, 30))])
def test_records_that_raise_are_dead_letters_and_the_others_are_tagged_as_without_them(
    batch: int, places: Sequence[int]
) -> None:
    clean, _ = run_memory(shoppers(300), JOB, batch_records=batch)
    store, recorder = run_fragile(with_poison(shoppers(300), places), batch)
    assert bare(store) == bare(clean)
    assert [(one["code"], one["value"]) for one in letters(store)] == [("unusable", POISON.decode())] * len(places)
    assert [one["offset"] for one in letters(store)] == [place + i for i, place in enumerate(places)]
    assert "ZeroDivisionError" in letters(store)[0]["message"]
    assert sum(sum(batch.defects.values()) for batch in recorder.of(BatchCommitted)) == len(places)
    assert sum(batch.outcomes["dead_letter"] for batch in recorder.of(BatchCommitted)) == len(places)


def test_verify_finds_the_same_records_unusable() -> None:
    store, _ = run_fragile(with_poison(shoppers(300), [70, 71, 200]), 50)
    verifier = Verifier(store, JOB, FixedClock(), lambda report: None)
    verifier.job.decoder = Fragile(JOB.fields, JOB.max_record_bytes)
    verifier.at = lambda version: verifier.job  # type: ignore[method-assign]
    report = verifier.run()
    assert (report.records, report.dead_letters) == (303, 3)


def test_a_defect_is_logged_once_with_its_traceback_and_without_the_customers_data() -> None:
    stream, metrics = io.StringIO(), Metrics("events")
    run_fragile(with_poison(shoppers(300), [10, 120, 240]), 50, JsonLog(stream, "a"), metrics)
    lines = [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "record_quarantined"]
    assert line["traceback"].startswith("ZeroDivisionError\n")
    assert "test_quarantine.py" in line["traceback"]
    assert "poison" not in stream.getvalue()
    assert metrics.registry.get_sample_value("streamseg_quarantined_total") == 3


def test_what_raises_without_any_record_is_no_records_fault() -> None:
    class Broken(EventDecoder):
        def decode(self, *_: Any, **__: Any) -> tuple[Decoded, list[Rejected]]:
            raise ZeroDivisionError

    store = EmbeddedTransport(":memory:")
    produce(store, shoppers(20))
    running = Loop(store, JOB, FixedClock(), Recorder(), threading.Event(), batch_records=10)
    running._restore()
    running.job.decoder = Broken(JOB.fields)
    with pytest.raises(ZeroDivisionError):
        running.run()
    assert not published(store, Topic.DEAD_LETTERS)


@pytest.mark.parametrize("digits", [17, 100, 309, 310, 4_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_event_time_of_hundreds_of_digits_is_a_dead_letter_among_good_events(digits: int, sign: str) -> None:
    # As nanoseconds 1 with 17 zeros is of 1973.
    code = "implausible_time" if digits == 17 else "bad_time"
    value = b'{"customer_id":"c","event_time":%s1%s,"age":1}' % (sign.encode(), b"0" * digits)
    store, _ = run_memory([*shoppers(40), (None, value, None), *shoppers(40, seed=1)], JOB, batch_records=25)
    assert len(tags(store)) >= 80
    (letter,) = letters(store)
    assert letter["code"] == code
    assert len(letter["message"]) < 200


@pytest.mark.parametrize(
    ("timestamp_ms", "code"),
    [(T0_MS * 1_000, "bad_time"), (2**62, "bad_time"), (-(2**62), "bad_time"), (T0_MS * 2, "future_time"), (T0_MS, None)],
)
def test_a_records_timestamp_is_held_to_the_limits_of_an_event_time(timestamp_ms: int, code: str | None) -> None:
    body = msgspec.json.encode({"customer_id": "c", "age": 1.0, "income": 1.0, "purchases": 1.0})
    decoder = EventDecoder(JOB.fields)
    decoded, rejected = decoder.decode([None], [body], [timestamp_ms], FixedClock().now_us())
    assert [one.error.code.value for one in rejected] == ([code] if code else [])
    assert decoded.times.tolist() == ([] if code else [T0_MS * 1_000])
    assert np.all(np.abs(decoded.times) < 2**62)


def test_erasures_need_no_time_that_makes_sense() -> None:
    decoder = EventDecoder(JOB.fields)
    decoded, rejected = decoder.decode([b"c"], [None], [2**62], FixedClock().now_us())
    assert (decoded.ids, rejected) == (["c"], [])
    assert event("c")[1] is not None

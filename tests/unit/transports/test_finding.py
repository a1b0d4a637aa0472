"""What a sample of records says of an input."""

from __future__ import annotations

import json

import pytest

from streamseg.errors import ConfigError
from streamseg.formats.events import EventDecoder
from streamseg.transports.finding import Finding, Sample, each
from tests.harness import settings_for
from tests.inputs import NOW_US


def findings(events: list[dict[str, object]], *, deduplicated: bool = False) -> list[Finding]:
    values = [json.dumps({"event_time": 1_700_000_000_000, "age": 30, **event}).encode() for event in events]
    sample = Sample(EventDecoder(settings_for(features=[{"name": "age"}]).fields), NOW_US, deduplicated)
    return list(sample.findings([None] * len(values), values, [None] * len(values)))


@pytest.mark.parametrize(("n_repeated", "said"), [(0, False), (1, False), (2, True), (5, True)])
def test_repeated_ids_of_events_are_said_with_what_to_set(n_repeated: int, said: bool) -> None:
    events: list[dict[str, object]] = [{"customer_id": f"c{i % 7}", "event_id": i} for i in range(100)]
    events += events[:n_repeated]
    found = [one for one in findings(events) if one.what == "event ids"]
    assert bool(found) == said
    for one in found:
        assert one.ok is None
        assert one.text.startswith(f"{n_repeated} of {100 + n_repeated} events")
        assert 'input.deduplicate = "24h"' in one.text
    assert not any(one.what == "event ids" for one in findings(events, deduplicated=True))


def test_ids_that_two_customers_have_are_no_repeats() -> None:
    events: list[dict[str, object]] = [{"customer_id": f"c{i}", "event_id": 1} for i in range(100)]
    assert [one.what for one in findings(events)] == ["events"]


def test_fields_that_no_event_has_and_events_that_none_can_read_are_said() -> None:
    (lacking,) = findings([{"customer_id": "c", "age": None}])
    assert lacking.ok is None
    assert "none has: age" in lacking.text
    (wrong,) = findings([{"customer": "c"}])
    assert wrong.ok is False
    assert "missing_customer_id" in wrong.text


def test_an_error_of_one_look_is_a_finding() -> None:
    def look() -> list[Finding]:
        raise ConfigError("no", hint="do this")

    assert list(each("what", lambda: iter(look()))) == [Finding("what", False, "no: do this")]

"""When segments are retired, as a whole job sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamseg.model.start import start_from_centers
from tests.harness import Event, restored, run_memory, settings_for, shoppers, verified


@pytest.mark.parametrize("half_life", ["auto", 500, "7d", "none"])
def test_a_segment_that_nobody_comes_to_is_retired_whatever_half_lives_count(half_life: Any) -> None:
    model = {"segments": 3, "warm_up": 30, "half_life": half_life, "retire_after": "12h", "refits": False}
    every = shoppers(3000)
    # c0, c3, ... are one segment: they stay away from the 601st event on.
    events = [e for i, e in enumerate(every) if i < 600 or int(tag_id(e)[1:]) % 3]
    store, _ = run_memory(events, settings_for(model=model), batch_records=100)
    state = restored(store, settings_for(model=model)).state
    assert len(state.ids) == 2
    (ended,) = state.retired
    assert ended.why == "retired"
    assert set(ended.successors) <= set(state.ids)
    assert verified(store, settings_for(model=model)).decisions >= 2
    stay, _ = run_memory(every, settings_for(model=model), batch_records=100)
    assert len(restored(stay, settings_for(model=model)).state.ids) == 3


def test_a_silence_of_the_whole_stream_retires_nobody() -> None:
    model = {"segments": 3, "warm_up": 30, "retire_after": "12h", "refits": False}
    every = shoppers(3000)
    week_ms = 7 * 86_400_000
    events = [
        e if i < 600 else later(e, week_ms) for i, e in enumerate(every) if i < 600 or i > 700 or int(tag_id(e)[1:]) % 3
    ]
    store, _ = run_memory(events, settings_for(model=model), batch_records=20)
    state = restored(store, settings_for(model=model)).state
    assert len(state.ids) == 3
    assert not state.retired


def test_a_warm_start_retires_nobody_before_the_time() -> None:
    settings = settings_for(model={"segments": 3, "retire_after": "12h", "refits": False})
    centers = {g: {"age": 20.0 + 15 * g, "income": 1000.0 * g, "purchases": g + 0.5} for g in range(3)}
    start = start_from_centers(settings.model, centers)
    store, _ = run_memory(shoppers(300), settings, batch_records=2, warm_start=start)
    assert not restored(store, settings).state.retired


def later(e: Event, ms: int) -> Event:
    assert e[1] is not None
    value = json.loads(e[1])
    return e[0], json.dumps(value | {"event_time": value["event_time"] + ms}).encode(), e[2]


def tag_id(e: Event) -> str:
    assert e[1] is not None
    return str(json.loads(e[1])["customer_id"])

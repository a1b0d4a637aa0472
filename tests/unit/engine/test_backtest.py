"""A rehearsal comes to what the job itself comes to, and to nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from streamseg.engine.backtest import Rehearsal, compared, segments_of
from streamseg.engine.ports import Records
from streamseg.engine.settings import JobSettings
from tests.harness import BAD, Event, FixedClock, event, jumping, restored, run_memory, settings_for, shoppers, tags


def rehearsed(events: list[Event], settings: JobSettings, batch: int, fed: int = 700) -> Rehearsal:
    """`fed`: events that it is given at a time, which is its own matter."""
    rehearsal = Rehearsal(settings, FixedClock(), {0: 0}, batch)
    for first in range(0, len(events), fed):
        part = events[first : first + fed]
        keys, values, times = (list(column) for column in zip(*part, strict=True))
        end = first + len(part)
        rehearsal.feed({0: Records(range(first, end), keys, values, times, end)})
    rehearsal.feed({}, ended=True)
    return rehearsal


@pytest.mark.parametrize("model", [{"segments": 3, "warm_up": 20}, {"warm_up": 200, "retag_every": "10m"}])
def test_it_ends_where_the_job_over_the_same_batches_ends(model: dict[str, object]) -> None:
    settings = settings_for(model=model)
    events = [*shoppers(2500, customers=300), *BAD, *shoppers(500, customers=300, seed=1)]
    store, _ = run_memory(events, settings, batch_records=250)
    job, rehearsal = restored(store, settings), rehearsed(events, settings, 250)
    assert rehearsal.job.state.digest() == job.state.digest()
    assert segments_of(rehearsal.job) == segments_of(job)
    moved = Counter(tag["reason"] for tag in tags(store) if tag is not None and tag["change"] == "moved")
    assert rehearsal.outcome.moves == moved
    assert sum(rehearsal.outcome.outcomes.values()) == len(events)
    assert rehearsal.outcome.outcomes["dead_letter"] == len(BAD)


def test_its_loss_is_the_mean_of_the_squared_distances_that_the_tags_tell() -> None:
    settings = settings_for(model={"segments": 3, "warm_up": 20})
    store, _ = run_memory(shoppers(1000), settings, batch_records=250)
    told = [tag["distance"] ** 2 for tag in tags(store) if tag is not None and tag["source"] and tag["distance"] is not None]
    quality = rehearsed(shoppers(1000), settings, 250).outcome.quality
    assert quality.rows == len(told)
    assert quality.squared / quality.rows == pytest.approx(sum(told) / len(told), rel=1e-2)


def test_a_long_batch_is_taken_in_pieces_as_the_job_takes_it() -> None:
    settings = settings_for(model={"segments": 4, "warm_up": 500})
    events = jumping(16_000)
    store, _ = run_memory(events, settings, batch_records=8_000)
    for batch, fed in ((8_000, 700), (8_000, 8_000), (333, 1_000)):
        rehearsal = rehearsed(events, settings, batch, fed)
        assert segments_of(rehearsal.job) == segments_of(restored(store, settings))
        assert rehearsal.job.state.digest() == restored(store, settings).state.digest()
        assert rehearsal.job.state.search.number > 3


def test_the_same_settings_agree_and_others_are_told_apart() -> None:
    events = shoppers(1500)
    three = rehearsed(events, settings_for(model={"segments": 3, "warm_up": 20}), 250)
    again = rehearsed(events, settings_for(model={"segments": 3, "warm_up": 20}), 250)
    one = rehearsed(events, settings_for(model={"segments": 1, "warm_up": 20}), 250)
    assert compared(three.job, again.job).agreement == 1.0
    apart = compared(three.job, one.job)
    assert apart.agreement == 0.0
    assert sum(apart.moves.values()) == 40


def test_it_decides_when_the_job_decides_where_customers_jump() -> None:
    settings = settings_for(model={"warm_up": 200})
    rng = np.random.default_rng(0)
    events = [
        event(
            f"c{i % 600}",
            60.0 * i,
            age=15 * (i % 3) + 9 * (i // 3_000) * (i % 5) + rng.normal(),
            income=i % 7,
            purchases=i % 3,
        )
        for i in range(12_000)
    ]
    store, _ = run_memory(events, settings, batch_records=500)
    job, rehearsal = restored(store, settings), rehearsed(events, settings, 500)
    assert job.state.promotions >= 1
    assert job.state.search.number > 5
    assert rehearsal.job.state.promotions == job.state.promotions
    assert segments_of(rehearsal.job) == segments_of(job)

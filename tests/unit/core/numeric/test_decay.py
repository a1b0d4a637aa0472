"""Ages, and times that a single wrong one cannot spoil."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.core.numeric.decay import NEVER, Forgetting, guarded_times

HOUR = 3600.0


def test_weights_fade_by_position() -> None:
    aged = Forgetting("weight", 2.0).age(np.array([1.0, 1.0, 2.0]), None, NEVER)
    assert aged.weights == pytest.approx([2**-1.5, 0.5, 2.0] * np.array([1.0, 1.0, 1.0]))
    assert aged.factor == pytest.approx(0.25)
    assert aged.age == 4.0


def test_weights_fade_by_event_time_relative_to_the_largest() -> None:
    aged = Forgetting("time", 10.0).age(np.ones(3), np.array([0.0, 20.0, 10.0]), 0.0)
    assert aged.weights == pytest.approx([0.25, 1.0, 0.5])
    assert aged.factor == pytest.approx(0.25)
    assert aged.clock == 20.0


def test_ten_years_of_epoch_seconds_neither_overflow_nor_underflow() -> None:
    t = np.linspace(1.6e9, 1.6e9 + 10 * 365 * 86400, 1000)
    aged = Forgetting("time", 1.0).age(np.ones(1000), t, NEVER)
    assert np.isfinite(aged.weights).all()
    assert aged.weights[-1] == 1.0
    assert aged.factor == 1.0


def test_a_lone_time_far_ahead_weighs_as_at_the_watermark() -> None:
    times, held = guarded_times(np.array([10.0, 1e9, 11.0]), 9.0, 9.0, HOUR)
    assert times.tolist() == [10.0, 10.0, 11.0]
    assert held.tolist() == [False, True, False]


def test_two_times_ahead_in_a_row_are_believed() -> None:
    times, held = guarded_times(np.array([10.0, 1e9, 1e9 + 1]), 9.0, 9.0, HOUR)
    assert times.tolist() == [10.0, 10.0, 1e9 + 1]
    assert held.tolist() == [False, True, False]
    assert guarded_times(np.array([1e9 + 1]), 10.0, 1e9, HOUR)[0].tolist() == [1e9 + 1]


def test_a_sparse_stream_follows_one_event_behind() -> None:
    day = 24 * HOUR
    times, _ = guarded_times(np.arange(5.0) * day, NEVER, NEVER, HOUR)
    assert times.tolist() == [0.0, 0.0, day, 2 * day, 3 * day]
    clock, last = NEVER, NEVER
    for i in range(5):
        guarded, _ = guarded_times(np.array([i * day]), clock, last, HOUR)
        clock, last = max(clock, float(guarded[0])), i * day
    assert clock == 3 * day


def test_without_the_guard_times_are_as_they_come() -> None:
    times, held = guarded_times(np.array([10.0, 1e9]), 9.0, 9.0, None)
    assert times.tolist() == [10.0, 1e9]
    assert not held.any()


def test_the_first_times_of_all_are_guarded_by_the_first() -> None:
    assert guarded_times(np.array([5.0, 1e9, 6.0]), NEVER, NEVER, HOUR)[0].tolist() == [5.0, 5.0, 6.0]

"""The age of the oldest record without a tag, against what is true at each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamseg.engine.events import BatchCommitted, Polling
from streamseg.observability.lag import LagClock


class Told:
    """A clock that stands at 1,000 s until it is moved, and a lag clock that is told of polls and commits."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.clock = LagClock(lambda: self.now)

    def polls(self, lags: dict[int, int], first_s: dict[int, float] | None = None, after: float = 0.0) -> None:
        self.now += after
        first_ms = {p: round(1e3 * at) for p, at in (first_s or {}).items()}
        self.clock.polled(Polling(1, tuple(lags), lags, first_ms))

    def commits(self, *made_s: float, partition: int = 0, after: float = 0.0) -> None:
        self.now += after
        empty: dict[Any, int] = {}
        produced = {partition: 1e3 * np.array([0.001, *made_s])}
        self.clock.committed(BatchCommitted(empty, empty, empty, empty, (), {}, 1, 1, None, 0, 0, produced_ms=produced))


@pytest.fixture(name="told")
def _told() -> Told:
    return Told()


def test_an_open_batch_is_as_old_as_its_first_record_also_while_the_loop_hangs(told: Told) -> None:
    told.polls({0: 0}, after=0.5)
    assert told.clock.seconds(0) == 0.0
    told.polls({0: 50}, {0: 990.0})
    assert told.clock.seconds(0) == pytest.approx(10.5)
    told.now += 3_600.0
    assert told.clock.seconds(0) == pytest.approx(3_610.5)


def test_an_hour_of_backlog_is_an_hour_however_full_polls_come_back(told: Told) -> None:
    backlog = 1_000.0 - 3_600.0
    for i in range(20):
        # Each poll brings a few records, and tells of many more.
        told.polls({0: 100_000 - i, 1: 0}, {0: backlog + i}, after=0.1)
        told.commits(backlog + i, after=0.1)
        assert told.clock.seconds(0) == pytest.approx(3_600.0, rel=0.01)
        assert told.clock.seconds(1) == 0.0, "the other partition is not behind"
    told.polls({0: 100_000, 1: 0}, after=0.1)
    assert told.clock.seconds(0) == pytest.approx(3_600.0, rel=0.01), "also where a poll brings nothing of it"


def test_a_last_record_without_a_timestamp_hides_no_backlog(told: Told) -> None:
    told.polls({0: 100}, {0: 900.0})
    told.commits(900.0, float("nan"))
    told.polls({0: 98}, after=1.0)
    assert told.clock.seconds(0) == pytest.approx(101.0)


def test_one_event_after_a_quiet_hour_is_not_an_hour_old(told: Told) -> None:
    told.polls({0: 1}, {0: 999.0})
    told.commits(999.0)
    for _ in range(7_200):
        told.polls({0: 0}, after=0.5)
    told.polls({0: 1}, after=0.5)
    assert told.clock.seconds(0) == pytest.approx(1.0), "it came after the last poll but one"
    told.polls({0: 1}, after=2.0)
    assert told.clock.seconds(0) == pytest.approx(3.0), "and is still there"


def test_a_partition_that_was_never_read_is_behind_since_it_was_given(told: Told) -> None:
    told.polls({0: 7}, after=0.5)
    told.polls({0: 7}, after=2.0)
    assert told.clock.seconds(0) == pytest.approx(2.5)
    told.clock.drop(0)
    assert np.isnan(told.clock.seconds(0))


def test_what_is_not_known_is_not_called_nothing(told: Told) -> None:
    told.polls({0: 5}, {0: 400.0}, after=0.5)
    told.clock.polled(Polling(1, (0, 1), {0: 5}, {}))
    assert np.isnan(told.clock.seconds(1)), "its first records are still on their way"
    told.now += 1.0
    told.polls({0: 5, 1: 500}, {1: 400.0}, after=0.5)
    told.commits(401.0, partition=1)
    assert told.clock.seconds(1) == pytest.approx(601.0)


def test_without_polls_nobody_knows_what_came_so_the_time_since_the_last_is_told(told: Told) -> None:
    told.polls({0: 0}, after=0.5)
    told.now += 4.0
    assert told.clock.seconds(0) == 0.0, "batches of other partitions take a while"
    told.now += 596.0
    assert told.clock.seconds(0) == pytest.approx(600.0)
    assert told.clock.polled_at == pytest.approx(1_000.5)

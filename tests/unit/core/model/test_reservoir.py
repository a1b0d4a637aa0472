"""The sample of customers: bounded, biased to the recent, the same however the log was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.model.reservoir import HALF_LIFE, ROWS, ROWS_EACH, Sample, merged, priorities, trimmed


def of(keys: list[int], at: list[float]) -> Sample:
    array = np.array(keys, dtype=np.int64)
    return Sample(array, priorities(array, np.array(at)), np.array([at]))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10_000)), min_size=1, max_size=60), st.integers(0, 60))
def test_parts_merge_to_what_the_whole_gives(drawn: list[tuple[int, int]], cut: int) -> None:
    events = [(key, at + i / 100) for i, (key, at) in enumerate(sorted(drawn, key=lambda one: one[1]))]

    def whole(part: list[tuple[int, float]]) -> Sample:
        return merged(Sample.empty(1), of([key for key, _ in part], [at for _, at in part]))

    one, both = whole(events), merged(whole(events[:cut]), whole(events[cut:]))
    assert one.keys.tolist() == both.keys.tolist()
    assert one.x.tolist() == both.x.tolist()
    latest = dict(events)
    assert dict(zip(one.keys.tolist(), one.x[0].tolist(), strict=True)) == latest


def test_of_many_customers_the_recent_ones_stay_and_the_rare_segment_is_seen() -> None:
    n = 20_000
    keys, at = np.arange(n) * 7919, np.arange(n, dtype=np.float64)
    sample = merged(Sample.empty(1), Sample(keys, priorities(keys, at), at[None]))
    labels = (sample.x[0] < 200).astype(np.int64)
    kept = trimmed(sample, labels, 2)
    recent = kept.x[0] >= 200
    assert kept.n_rows == ROWS + ROWS_EACH
    assert np.count_nonzero(~recent) == ROWS_EACH
    assert np.median(n - kept.x[0][recent]) < 3 * HALF_LIFE


def test_an_erased_customer_is_gone() -> None:
    assert of([1, 2, 3], [1.0, 2.0, 3.0]).without([2]).keys.tolist().count(2) == 0


def test_halves_are_even_and_stay_with_the_customer() -> None:
    sample = of(list(range(10_000)), [0.0] * 10_000)
    assert abs(np.count_nonzero(sample.halves) - 5_000) < 200
    assert (sample.take(np.arange(100)).halves == sample.halves[:100]).all()

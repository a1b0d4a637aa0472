"""Which dead letters were sent back is remembered exactly, whatever was left out on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamseg.transports.kafka import feeding
from streamseg.transports.kafka.client import TopicPartition
from streamseg.transports.kafka.feeding import Letter, Redriven, _portions

_PLACE = TopicPartition("dead", 0)


def letters(offsets: list[int]) -> list[Letter]:
    return [Letter(_PLACE, offset, "not_json", 0, None, b"x", None) for offset in offsets]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=30),
    st.lists(st.sets(st.integers(0, 29)), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_each_letter_is_sent_once_and_none_is_forgotten(gaps: list[int], wanted: list[set[int]], size: int) -> None:
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    state, sent = Redriven(), list[int]()
    everything = set(range(len(offsets)))
    size_before, feeding._PORTION = feeding._PORTION, size
    try:
        for chosen in [*wanted, everything]:
            take = {offsets[i] for i in chosen if i < len(offsets)}
            before = state
            for portion, after in _portions(iter(letters(offsets)), before, lambda one, take=take: one.offset in take):  # type: ignore[misc]
                sent += [one.offset for one in portion]
                assert [one.offset for one in portion] == sorted(one.offset for one in portion)
                # Killed here, the next run begins with what was committed with this portion.
                state = after
                assert {offset for offset in offsets if not state.waits(offset)} == set(sent)
    finally:
        feeding._PORTION = size_before
    assert sorted(sent) == offsets


def test_what_was_left_out_is_metadata_that_brokers_take() -> None:
    assert Redriven(9, [(1, 3), (5, 5)]).encode() == "[[1,3],[5,5]]"

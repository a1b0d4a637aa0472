"""The codec of internal logs notices what is damaged."""

from __future__ import annotations

from itertools import chain, islice, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import CorruptedError
from streamseg.formats.frames import MAX_FRAME_BYTES, cut, entries, frames


def numbered(*entry_lists: list[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(record for records in entry_lists for record in records))


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), st.booleans())
def test_entries_come_back(payloads: list[bytes], separate: bool) -> None:
    log = numbered(*(list(frames([p, p], separate=separate)) for p in payloads))
    found = [entry.payload for entry in entries(log, "t")]
    assert found == ([p for p in payloads for _ in "xx"] if separate else [p + p for p in payloads])


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_byte_is_noticed_wherever_it_is(payload: bytes, data: st.DataObject) -> None:
    (record,) = frames([payload])
    at = data.draw(st.integers(0, len(record) - 1))
    broken = bytearray(record)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = list(entries([(0, bytes(broken))], "t"))
    except CorruptedError:
        return
    assert found == [], "a record that no longer claims to be an entry's last is no entry"


def test_a_missing_piece_is_noticed() -> None:
    records = list(frames([b"a", b"b", b"c"]))
    with pytest.raises(CorruptedError, match="offset 1"):
        list(entries(numbered([records[0], records[2]]), "t"))


def test_what_has_not_ended_is_left_out_and_holds_back_what_began_later() -> None:
    whole, other = list(frames([b"a", b"b"])), list(frames([b"next"]))
    assert list(entries(numbered(whole[:1], other), "t")) == []
    found = list(entries(numbered(whole[:1], other, whole[1:]), "t"))
    assert [(e.first, e.end, e.payload) for e in found] == [(0, 1, b"ab"), (1, 3, b"next")]


def test_an_entry_that_never_ends_is_told_in_the_end() -> None:
    begun, _ = frames([b"a", b"b"])
    (whole,) = frames([b"next"])
    log = chain([begun], repeat(whole, 100_001))
    with pytest.raises(CorruptedError, match="its entry does not end"):
        list(entries(enumerate(log), "t"))


def test_a_piece_whose_beginning_is_lost_is_told_where_the_log_is_whole() -> None:
    _, second = frames([b"a", b"b"])
    with pytest.raises(CorruptedError, match="the beginning of its entry is missing"):
        list(entries([(0, second)], "t"))
    assert list(entries([(1, second)], "t")) == [], "the log was truncated, or is read from its middle"


@given(
    st.lists(st.lists(st.lists(st.sampled_from([b"x", b"y"]), min_size=1, max_size=4), max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_entries_of_several_writers_in_one_another_are_read_once_each_wherever_reading_stops(
    writers: list[list[list[bytes]]], data: st.DataObject
) -> None:
    waiting = [[record for payload in entry_list for record in frames(payload)] for entry_list in writers]
    log: list[bytes] = []
    while any(waiting):
        log.append(data.draw(st.sampled_from([records for records in waiting if records])).pop(0))
    whole = list(entries(enumerate(log), "t"))
    assert sorted(e.payload for e in whole) == sorted(b"".join(p) for entry_list in writers for p in entry_list)
    assert [e.first for e in whole] == sorted(e.first for e in whole)
    found: list[tuple[int, bytes]] = []
    position = visible = 0
    while len(found) < len(whole):
        visible = data.draw(st.integers(visible, len(log)))
        most = data.draw(st.integers(1, 3))
        for entry in islice(entries(list(enumerate(log))[position:visible], "t"), most):
            found.append((entry.first, entry.payload))
            position = entry.end
        visible = min(visible + 1, len(log))
    assert found == [(e.first, e.payload) for e in whole]


def test_a_large_payload_is_cut_to_fit_a_record() -> None:
    payload = bytes(2 * MAX_FRAME_BYTES + 1)
    pieces = cut(payload)
    assert [len(piece) for piece in pieces] == [MAX_FRAME_BYTES, MAX_FRAME_BYTES, 1]
    assert next(entries(numbered(list(frames(pieces))), "t")).payload == payload

"""The codec of internal logs notices what is damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import CorruptedError
from streamseg.records.frames import MAX_FRAME_BYTES, cut, entries, frames


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


def test_an_entry_without_its_end_was_never_written() -> None:
    records = list(frames([b"a", b"b"]))
    assert [e.payload for e in entries(numbered(records[:1], list(frames([b"next"]))), "t")] == [b"next"]


def test_a_large_payload_is_cut_to_fit_a_record() -> None:
    payload = bytes(2 * MAX_FRAME_BYTES + 1)
    pieces = cut(payload)
    assert [len(piece) for piece in pieces] == [MAX_FRAME_BYTES, MAX_FRAME_BYTES, 1]
    assert next(entries(numbered(list(frames(pieces))), "t")).payload == payload

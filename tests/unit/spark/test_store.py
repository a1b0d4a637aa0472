from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from streamseg.engine.log_records import KeptCustomers, Mark, OffsetMetadata
from streamseg.engine.ports import Log
from streamseg.errors import CorruptedError, TruncatedError
from streamseg.spark.store import FORMAT_VERSION, Head, Part, Store


def head(turn: int, version: int | None = None) -> Head:
    metadata = OffsetMetadata(seq=turn).encode()
    version = turn if version is None else version
    return Head(FORMAT_VERSION, b"id", turn, turn, True, 0, 1, version, {0: (turn, metadata)}, 0, {}, [])


def part(*customers: bytes) -> Part:
    return Part(list(customers), [], (1, OffsetMetadata(seq=1).encode()), [], (Mark(), 0), rest=False)


def written(folder: Path, turns: int) -> Store:
    store = Store(str(folder))
    for turn in range(turns):
        store.put_part(0, turn, part(b"a%d" % turn, b"b%d" % turn))
        store.put_turn(head(turn), [b"m%d" % turn])
    return store


def test_records_come_back_in_order_from_any_place(tmp_path: Path) -> None:
    store = written(tmp_path, 3)
    assert [record for _, record in store.read(Log.CUSTOMERS, 0, 0)] == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    assert [record for _, record in store.read(Log.CUSTOMERS, 0, store.offset(1, 1))] == [b"b1", b"a2", b"b2"]
    assert [record for _, record in store.read(Log.MODEL, 0, store.offset(2))] == [b"m2"]
    assert store.end(Log.MODEL, 0) == store.offset(3)


def test_what_a_turn_left_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    store = written(tmp_path, 2)
    store.put_part(0, 2, part(b"cut off"))
    assert [record for _, record in store.read(Log.CUSTOMERS, 0, 0)] == [b"a0", b"b0", b"a1", b"b1"]
    found = store.head()
    assert found is not None
    assert found.turn == 1


def test_a_turn_of_the_model_that_is_missing_is_damage(tmp_path: Path) -> None:
    store = written(tmp_path, 4)
    (tmp_path / "segments" / "model" / f"{1:012}").unlink()
    with pytest.raises(CorruptedError, match="model log is missing"):
        list(store.read(Log.MODEL, 0, 0))


def test_a_file_that_is_gone_is_truncation_and_one_that_is_cut_is_damage(tmp_path: Path) -> None:
    store = written(tmp_path, 2)
    with pytest.raises(TruncatedError, match="is not there"):
        store.part(0, 9)
    file = tmp_path / "segments" / "customers" / "0" / f"{1:012}"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptedError, match="damaged"):
        store.part(0, 1)


def test_turns_behind_snapshots_that_nobody_needs_go(tmp_path: Path) -> None:
    store = written(tmp_path, 6)
    offset = store.offset(4)
    kept = (KeptCustomers(offset, 3, 4), KeptCustomers(store.offset(5), 5, 6))
    metadata = OffsetMetadata(6, kept)
    last = msgspec.structs.replace(head(5), committed={0: (6, metadata.encode())})
    store.put_head(last)
    store.retain(last, {turn: turn for turn in store.heads()})
    assert sorted(int(file.name) for file in (tmp_path / "segments" / "customers" / "0").iterdir()) == [4, 5]
    assert [record for _, record in store.read(Log.CUSTOMERS, 0, offset)] == [b"a4", b"b4", b"a5", b"b5"]
    assert store.heads()[0] <= 3
    model = [int(file.name) for file in sorted((tmp_path / "segments" / "model").iterdir())]
    assert model == [3, 4, 5]
    with pytest.raises(TruncatedError, match="not retained"):
        list(store.read(Log.MODEL, 0, store.offset(1)))


def test_where_spark_began_is_read_from_its_own_log(tmp_path: Path) -> None:
    file = tmp_path / "spark" / "sources" / "0" / "0"
    file.parent.mkdir(parents=True)
    file.write_bytes(b'\x00v1\n{"orders":{"1":7,"0":3}}')
    assert Store(str(tmp_path)).spark_begins("orders") == {0: 3, 1: 7}
    with pytest.raises(CorruptedError, match="another --checkpoint"):
        Store(str(tmp_path)).spark_begins("others")

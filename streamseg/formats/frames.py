"""The codec of internal logs.

An entry of an internal log (a delta, a snapshot) is one or more records: a header, then a piece of payload. Each header
tells its entry and holds a digest over all pieces so far, the last one is marked, so a missing or changed piece is noticed
where it stands. A transaction shows all of an entry or nothing, but other writers' entries may stand between its pieces.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from streamseg.errors import CorruptedError

_NAME_BYTES = 8
# Magic, version, flags, place of the piece, name of the entry, digest.
_HEADER = struct.Struct(f"<4sBBI{_NAME_BYTES}s16s")
_MAGIC = b"sseg"
FRAME_VERSION = 2
MAX_FRAME_BYTES = 900_000
_LAST, _SEPARATE = 1, 2
# Records after the first of an entry, by when it has ended: transactions take seconds.
_MOST_BETWEEN = 100_000


def frames(pieces: Iterable[bytes], *, separate: bool = False) -> Iterator[bytes]:
    """Records of one entry; pieces above 900 kB must have been cut before.

    `separate`: each piece is a value of its own, so that a reader need not hold them all.
    """
    kind = _SEPARATE if separate else 0
    chain = _Chain(os.urandom(_NAME_BYTES))
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield chain.frame(held, kind)
        held = piece
    if held is not None:
        yield chain.frame(held, kind | _LAST)


def cut(payload: bytes) -> list[bytes]:
    """Pieces of a payload that fit into a record."""
    return [payload[i : i + MAX_FRAME_BYTES] for i in range(0, len(payload), MAX_FRAME_BYTES)] or [b""]


class _Chain:
    """The pieces of one entry so far. Its name tells it from others, also from those that hold the same: chance."""

    def __init__(self, name: bytes) -> None:
        self._digest = hashlib.blake2b(name, digest_size=16)
        self.name, self.next = name, 0

    def frame(self, piece: bytes, flags: int) -> bytes:
        place, digest = self.next, self._digest_with(piece, flags)
        self._digest, self.next = digest, place + 1
        return _HEADER.pack(_MAGIC, FRAME_VERSION, flags, place, self.name, digest.digest()) + piece

    def take(self, header: _Header, piece: bytes) -> str:
        """Add the next piece. Returns what is wrong with it, or nothing."""
        if header.place != self.next:
            return f"piece {self.next} of its entry is missing"
        digest = self._digest_with(piece, header.flags)
        self._digest, self.next = digest, self.next + 1
        return "" if digest.digest() == header.digest else "its digest does not match"

    def _digest_with(self, piece: bytes, flags: int) -> hashlib.blake2b:
        digest = self._digest.copy()
        digest.update(struct.pack("<IBI", self.next, flags, len(piece)))
        digest.update(piece)
        return digest


class _Header(NamedTuple):
    magic: bytes
    version: int
    flags: int
    place: int
    name: bytes
    digest: bytes


def _header(record: bytes, offset: int, log: str) -> _Header:
    """Raises CorruptedError naming log and offset."""
    try:
        header = _Header(*_HEADER.unpack_from(record))
    except struct.error:
        raise _damaged(log, offset, "it is too short") from None
    if header.magic != _MAGIC:
        raise _damaged(log, offset, "it is not a record of this log")
    if header.version != FRAME_VERSION:
        raise CorruptedError(
            f"the record has format version {header.version}, this program reads {FRAME_VERSION}",
            where=f"log {log}, offset {offset}",
            hint="run the version of streamseg that wrote it",
        )
    return header


def _damaged(log: str, offset: int, why: str) -> CorruptedError:
    return CorruptedError(
        f"a record of the internal log is damaged: {why}",
        where=f"log {log}, offset {offset}",
        hint="restore the state from a backup, or start a new state from the input",
    )


def ends_entry(record: bytes) -> bool:
    """Whether an entry ends with a record, as far as it says so itself."""
    if len(record) < _HEADER.size:
        return True
    header = _Header(*_HEADER.unpack_from(record))
    return header.magic != _MAGIC or bool(header.flags & _LAST)


class Entry(NamedTuple):
    """A value of a log.

    Attributes:
        first: offset of its entry's first record.
        end: where reading goes on behind it: all entries that began before are read.
        begins, ends: whether it is the first, and the last, value of its entry.
    """

    first: int
    end: int
    payload: bytes
    begins: bool = True
    ends: bool = True


class _Growing:
    """An entry of which pieces are still to come, or that waits for one that began before it."""

    def __init__(self, first: int, name: bytes) -> None:
        self.first, self.chain = first, _Chain(name)
        self.pieces: list[bytes] = []
        self.ended = False


def entries(records: Iterable[tuple[int, bytes]], log: str) -> Iterator[Entry]:
    """Values of (offset, record) pairs, in the order in which their entries began. Raises CorruptedError.

    Left out are pieces of an entry that began before the records, and entries that have not ended or wait for such a one.
    """
    growing: dict[bytes, _Growing] = {}
    start: int | None = None
    for offset, record in records:
        start = offset if start is None else start
        header, piece = _header(record, offset, log), record[_HEADER.size :]
        if header.place == 0:
            growing[header.name] = _Growing(offset, header.name)
        entry = growing.get(header.name)
        if entry is None and start == 0:
            raise _damaged(log, offset, "the beginning of its entry is missing")
        if entry is None:
            continue
        wrong = entry.chain.take(header, piece)
        if wrong:
            raise _damaged(log, offset, wrong)
        entry.ended = bool(header.flags & _LAST)
        if header.flags & _SEPARATE:
            yield Entry(entry.first, offset + 1, piece, header.place == 0, entry.ended)
            if entry.ended:
                del growing[header.name]
            continue
        entry.pieces.append(piece)
        yield from _ended(growing, offset + 1)
        if growing and offset - _oldest(growing).first > _MOST_BETWEEN:
            raise _damaged(log, _oldest(growing).first, "its entry does not end")


def _oldest(growing: dict[bytes, _Growing]) -> _Growing:
    return next(iter(growing.values()))


def _ended(growing: dict[bytes, _Growing], behind: int) -> Iterator[Entry]:
    """Entries that have ended, and before which none began that has not. INOUT growing."""
    while growing and (done := _oldest(growing)).ended:
        del growing[done.chain.name]
        yield Entry(done.first, _oldest(growing).first if growing else behind, b"".join(done.pieces))

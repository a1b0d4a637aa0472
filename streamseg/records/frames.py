"""The codec of internal logs.

An entry of an internal log (a delta, a snapshot) is one or more records: a header, then a piece of payload. Each header
holds a digest over all pieces so far, the last one is marked, so a missing, doubled or changed piece is noticed where it
stands, and an entry without its last piece was never written.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from streamseg.errors import CorruptedError

_HEADER = struct.Struct("<4sBBI16s")
_MAGIC = b"sseg"
FRAME_VERSION = 1
MAX_FRAME_BYTES = 900_000
_LAST, _SEPARATE = 1, 2


def frames(pieces: Iterable[bytes], *, separate: bool = False) -> Iterator[bytes]:
    """Records of one entry; pieces above 900 kB must have been cut before.

    `separate`: each piece is a value of its own, so that a reader need not hold them all.
    """
    kind = _SEPARATE if separate else 0
    digest = hashlib.blake2b(digest_size=16)
    held: bytes | None = None
    index = 0
    for piece in pieces:
        if held is not None:
            yield _frame(held, index, kind, digest)
            index += 1
        held = piece
    if held is not None:
        yield _frame(held, index, kind | _LAST, digest)


def cut(payload: bytes) -> list[bytes]:
    """Pieces of a payload that fit into a record."""
    return [payload[i : i + MAX_FRAME_BYTES] for i in range(0, len(payload), MAX_FRAME_BYTES)] or [b""]


def _frame(piece: bytes, index: int, flags: int, digest: hashlib.blake2b) -> bytes:
    digest.update(struct.pack("<IBI", index, flags, len(piece)))
    digest.update(piece)
    return _HEADER.pack(_MAGIC, FRAME_VERSION, flags, index, digest.digest()) + piece


class Piece(NamedTuple):
    payload: bytes
    place: int
    last: bool
    separate: bool


class FrameReader:
    """Reads the records of a log in order, and checks them."""

    def __init__(self, log: str) -> None:
        self.log = log
        self._digest = hashlib.blake2b(digest_size=16)
        self._next = 0

    def read(self, record: bytes, offset: int) -> Piece:
        """Raises CorruptedError naming log and offset."""
        try:
            magic, version, flags, index, expected = _HEADER.unpack_from(record)
        except struct.error:
            raise self._corrupted(offset, "it is too short") from None
        if magic != _MAGIC:
            raise self._corrupted(offset, "it is not a record of this log")
        if version != FRAME_VERSION:
            raise CorruptedError(
                f"the record has format version {version}, this program reads {FRAME_VERSION}",
                where=f"log {self.log}, offset {offset}",
                hint="run the version of streamseg that wrote it",
            )
        if index == 0:
            self._digest = hashlib.blake2b(digest_size=16)
        elif index != self._next:
            raise self._corrupted(offset, f"piece {self._next} of its entry is missing")
        piece = record[_HEADER.size :]
        self._digest.update(struct.pack("<IBI", index, flags, len(piece)))
        self._digest.update(piece)
        if self._digest.digest() != expected:
            raise self._corrupted(offset, "its digest does not match")
        self._next = index + 1
        return Piece(piece, index, bool(flags & _LAST), bool(flags & _SEPARATE))

    def _corrupted(self, offset: int, why: str) -> CorruptedError:
        return CorruptedError(
            f"a record of the internal log is damaged: {why}",
            where=f"log {self.log}, offset {offset}",
            hint="restore the state from a backup, or start a new state from the input",
        )


def ends_entry(record: bytes) -> bool:
    """Whether an entry ends with a record, as far as it says so itself."""
    if len(record) < _HEADER.size:
        return True
    magic, _, flags, _, _ = _HEADER.unpack_from(record)
    return magic != _MAGIC or bool(flags & _LAST)


class Entry(NamedTuple):
    """A value of a log.

    Attributes:
        first, end: offsets of its entry's first record, and behind its own last.
        begins, ends: whether it is the first, and the last, value of its entry.
    """

    first: int
    end: int
    payload: bytes
    begins: bool = True
    ends: bool = True


def entries(records: Iterable[tuple[int, bytes]], log: str) -> Iterator[Entry]:
    """Values of (offset, record) pairs. Raises CorruptedError.

    What comes before the first beginning of an entry is left out, and so is a joined entry that never ended.
    """
    reader = FrameReader(log)
    pieces: list[bytes] = []
    first = -1
    for offset, record in records:
        piece = reader.read(record, offset)
        if piece.place == 0:
            pieces, first = [], offset
        if piece.separate:
            yield Entry(first, offset + 1, piece.payload, piece.place == 0, piece.last)
            continue
        pieces.append(piece.payload)
        if piece.last:
            yield Entry(first, offset + 1, b"".join(pieces))
            pieces = []

"""Files that are rotated while they are read: renamed and re-created, or copied and truncated.

A file is identified by its first bytes: its name changes, and so does the inode of a copy. The old file is read to its end
under its present name, then the next one from its beginning. From then on the state identifies the old file by name and
first bytes, so that `verify` finds it under any later name.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from streamseg.errors import ConfigError
from streamseg.transports.files import Source, SourceRecords

# How much of a file's beginning it is known by.
_HEAD_BYTES = 1_024
_ROTATED = re.compile(r"#([0-9a-f]{32})$")


class Head(msgspec.Struct, frozen=True):
    """How a file begins: a digest of its first bytes."""

    n_bytes: int
    digest: str


class _Known(msgspec.Struct, forbid_unknown_fields=True):
    """What a state keeps of a file: its head, and what was found of its format."""

    head: Head | None = None
    found: str = ""


# What becomes of a file: nothing more is expected, it grows, or its last line is as whole as it will ever be.
Growth = Literal["stays", "grows", "ended"]
Maker = Callable[[Path, Growth], Source]


class RotatedFile:
    """A source that goes on where its file was rotated."""

    def __init__(
        self,
        path: Path,
        make: Maker,
        *,
        at: Path | None = None,
        follow: bool = False,
        lost: Literal["stop", "skip"] = "stop",
    ) -> None:
        """`make`: opens a file; `at`: where this one is now; `follow`: it is read on when it was rotated.

        `lost`: if what was read is nowhere any more, stop or go on with the new file.
        """
        self.path = path
        self._make, self._follow, self._lost = make, follow, lost
        self._head: Head | None = None
        self._at, self.is_gone, self._found = at or path, False, ""
        self._growth: Growth = "grows" if follow else "stays" if self._at == path else "ended"
        self._source = make(self._at, self._growth)

    def settle(self, known: str | None) -> str:
        """Raises ConfigError also where the file was rotated and is not found."""
        if known:
            before = msgspec.json.decode(known, type=_Known)
            self._head, self._found = before.head, before.found
            if self._follow:
                self._go_where_it_is()
            return self._kept(before.found or None)
        if self._is_in_place and (self._head is None or self._head.n_bytes < _HEAD_BYTES):
            self._head = head_of(self._at)
        return self._kept(None)

    def _kept(self, found: str | None) -> str:
        if not self.is_gone:
            self._found = self._source.settle(found)
        return msgspec.json.encode(_Known(self._head, self._found)).decode()

    def in_words(self) -> str:
        return self._source.in_words()

    def read(self, position: int, max_records: int) -> SourceRecords:
        if not self._follow:
            return self._source.read(position, max_records)
        if self._head is None:
            self._head = head_of(self._at)
        while True:
            self._go_where_it_is()
            if self.is_gone:
                return SourceRecords([], position, True)
            try:
                found = self._source.read(position, max_records)
            except (ConfigError, OSError):
                if self._is_in_place:
                    raise
                continue
            # Else it was rotated in between, and these may be bytes of the new one.
            if self._is_in_place:
                return found

    def behind(self, position: int, n_records: int) -> int:
        return self._source.behind(position, n_records)

    def remaining(self, position: int) -> str:
        return self._source.remaining(position)

    @property
    def _is_in_place(self) -> bool:
        return self._head is None or begins_like(self._at, self._head)

    def _go_where_it_is(self) -> None:
        """Go on with what was read under the name that it has now. Raises ConfigError where it is nowhere."""
        if self._at == self.path and self._is_in_place:
            return
        assert self._head is not None
        there = self._at if self._is_in_place else whereabouts(self.path, self._head)
        if there is None and self._lost == "stop":
            raise ConfigError(
                "the input file was rotated or truncated, and the old file is no longer beside it: it is unknown whether "
                "all of it was read",
                where=str(self.path),
                hint="keep one rotated file uncompressed beside it (logrotate: delaycompress), restore the old file as "
                f'{self.path}.1, or go on with the new file: input.lost = "skip"',
            )
        self.is_gone = there is None
        # Its writer may still be at it, until it writes to the new one.
        growth: Growth = "ended" if _has_content(self.path) else "grows"
        if there is not None and (there, growth) != (self._at, self._growth):
            self._at, self._growth = there, growth
            self._source = self._make(there, growth)
            self._source.settle(self._found or None)

    @property
    def was_rotated(self) -> bool:
        """Whether another file is where this one was, and has records. It is read when this one has been."""
        return (self.is_gone or self._at != self.path) and _has_content(self.path)

    @property
    def name_of_old(self) -> str:
        """What a state adds to the path of a file that was rotated."""
        return f"#{self._head.digest}" if self._head is not None else ""

    def begin_new(self) -> None:
        """Go on with the file that comes next: one that was rotated meanwhile, or the one that is there now."""
        following = self.path if self.is_gone else next_after(self.path, self._at)
        self._at, self._head, self.is_gone = following, None, False
        self._growth = "grows" if following == self.path else "ended"
        self._source = self._make(following, self._growth)


def head_of(path: Path, n_bytes: int = _HEAD_BYTES) -> Head | None:
    """None of an empty file."""
    with path.open("rb") as file:
        begin = file.read(n_bytes)
    return Head(len(begin), hashlib.blake2b(begin, digest_size=16).hexdigest()) if begin else None


def begins_like(path: Path, head: Head) -> bool:
    try:
        return head_of(path, head.n_bytes) == head
    except OSError:
        return False


def whereabouts(path: Path, head: Head) -> Path | None:
    """Where a file is now that began like that: there, or beside it under a name that begins as its own does."""
    if begins_like(path, head):
        return path
    return _longest(_beside(path), head)


def _longest(files: list[Path], head: Head | None) -> Path | None:
    """Of files that begin alike: an earlier copy of a rotated file may be beside it, and lacks its last lines."""
    alike = [other for other in files if head is not None and begins_like(other, head)]
    return max(alike, key=lambda other: (other.stat().st_size, other.name), default=None)


def _beside(path: Path) -> list[Path]:
    """Files whose names begin as that of `path`, which is none of them."""
    found = path.parent.glob(glob.escape(path.stem) + "*")
    return [other for other in found if other != path and other.is_file() and other.stat().st_size]


def next_after(path: Path, old: Path) -> Path:
    """The file that follows a rotated one: the oldest of those that were rotated later; else the one at `path`.

    A copy of another file does not count: it begins like that file.
    """
    heads, (after, until) = (head_of(old), head_of(path)), (old.stat().st_mtime_ns, path.stat().st_mtime_ns)
    beside = _beside(path)
    later = [other for other in beside if after < other.stat().st_mtime_ns <= until and head_of(other) not in heads]
    oldest = min(later, key=lambda other: (other.stat().st_mtime_ns, other.name), default=path)
    return path if oldest == path else _longest(beside, head_of(oldest)) or oldest


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def named(path: Path) -> Path:
    """The path of a file that a state knows by path and beginning, as it was rotated."""
    return Path(_ROTATED.sub("", str(path)))


def found_again(path: Path, known: str | None) -> Path | None:
    """Where the file is that was at `path`, and may have been rotated since; None where it is gone."""
    head = msgspec.json.decode(known, type=_Known).head if known else None
    if head is None:
        return path if path.is_file() else None
    return whereabouts(path, head)

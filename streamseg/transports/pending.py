"""Records of a file between poll and commit."""

from __future__ import annotations

from typing import NamedTuple

from streamseg.transports.files import Source


class Pending(NamedTuple):
    """Records polled from a file and not committed: `values`, from offset `first` on, are at [position, end) of it.

    `open_row`: the last one, if it is one of a table that lacks its line end.
    """

    first: int
    values: list[bytes]
    position: int
    end: int
    open_row: bytes | None

    @property
    def next(self) -> int:
        return self.first + len(self.values)

    def split(self, source: Source, next_offset: int) -> tuple[Pending, Pending]:
        """Those before an offset, and those from it on."""
        n = next_offset - self.first
        middle = self.end if next_offset == self.next else source.behind(self.position, n)
        rest = Pending(next_offset, self.values[n:], middle, self.end, self.open_row)
        return Pending(self.first, self.values[:n], self.position, middle, None if rest.values else self.open_row), rest

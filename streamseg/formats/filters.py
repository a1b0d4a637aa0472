"""Which events are meant: by equality, a list, or the existence of fields. For the whole input, or for one feature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.errors import RecordError
from streamseg.formats.cells import text_of
from streamseg.formats.envelopes import Envelope, typed
from streamseg.formats.wire import PLAIN, Format

Flags = npt.NDArray[np.bool_]
_WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0+")


class Condition(NamedTuple):
    """`field` has one of some values, as texts; None: it is there, whatever it is."""

    field: str
    values: tuple[str, ...] | None = None

    def holds(self, texts: Sequence[str | None]) -> Flags:
        """IN texts (n,)."""
        if self.values is None:
            return np.array([text is not None for text in texts], dtype=np.bool_)
        wanted = frozenset(map(_canonical, self.values))
        return np.array([text is not None and _canonical(text) in wanted for text in texts], dtype=np.bool_)


def _canonical(text: str) -> str:
    """A text as it is compared: a table's True is true, and its 3.0 is 3."""
    if text in ("True", "False"):
        return text.lower()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


class Filter(NamedTuple):
    """All conditions hold; without any, every event is meant."""

    conditions: tuple[Condition, ...] = ()

    def matches(self, texts: Mapping[str, Sequence[str | None]], n: int) -> Flags:
        """Of `n` events with texts by field. IN texts."""
        found: Flags = np.ones(n, dtype=np.bool_)
        for condition in self.conditions:
            found &= condition.holds(texts[condition.field])
        return found

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(condition.field for condition in self.conditions)


class Derived(NamedTuple):
    """A column of events that a filter keeps: the numbers or texts of `field`; None: 1 for each event."""

    column: str
    field: str | None
    filter: Filter
    is_text: bool = False


class ValueFilter:
    """A filter of records that could not be decoded as events: what is not meant need not be one."""

    def __init__(self, wanted: Filter, envelope: Envelope, format: Format = PLAIN) -> None:
        self._wanted = wanted
        kind, self._readers = typed(dict.fromkeys(wanted.fields, Any), envelope, lenient=True)
        self._decode = format.decoder(kind)

    def drops(self, value: bytes | None) -> bool:
        """Whether a record is an event that is surely not meant."""
        if value is None:
            return False
        try:
            event = self._decode(value)
            texts = {
                name: [text_of(read(event), name)] for name, read in zip(self._wanted.fields, self._readers, strict=True)
            }
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RecordError):
            return False
        return not self._wanted.matches(texts, 1)[0]

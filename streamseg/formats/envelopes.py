"""Where the fields of an event are in what well-known systems send: a small table of paths for each.

Segment (`track`, `identify`, `page`): https://segment.com/docs/connections/spec/. CloudEvents 1.0, structured mode:
https://github.com/cloudevents/spec. Debezium's change events: https://debezium.io/documentation/reference/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from streamseg.errors import RecordError
from streamseg.formats.cells import id_of
from streamseg.formats.event_type import Reader, event_type
from streamseg.formats.wire import PLAIN, Format

PresetName = Literal["none", "segment", "cloudevents", "debezium"]
DEFAULT_ID, DEFAULT_TIME = "customer_id", "event_time"


class NotMeant(Exception):
    """A record that is about no customer: it is dropped."""


class Envelope(NamedTuple):
    """Which paths a field may be found at.

    Attributes:
        prefixes: of all fields, in the order in which they are tried; first: paths of some fields that come before those.
        kinds: fields that say what a record is: their values that are events; others are dropped.
        literal: fields that conditions ask for: the path as it is written comes before all others.
        deletes: whether a record may say that a row was deleted, which erases the customer if the row's key is theirs.
    """

    prefixes: tuple[str, ...] = ("",)
    first: Mapping[str, tuple[str, ...]] = {}
    kinds: Mapping[str, tuple[str, ...]] = {}
    deletes: bool = False
    literal: frozenset[str] = frozenset()

    def paths(self, field: str) -> tuple[str, ...]:
        """Of a field, the first of which that is there counts."""
        own = (field,) if field in self.literal else ()
        return tuple(dict.fromkeys((*own, *self.first.get(field, ()), *(prefix + field for prefix in self.prefixes))))


def envelope_of(preset: PresetName, customer_id: str, event_time: str) -> Envelope:
    """Paths that are configured come before those that a preset knows, where they are not the defaults."""
    known = _PRESETS[preset]
    names = {"customer_id": customer_id, "event_time": event_time}
    first = {}
    for field, paths in known.first.items():
        name = names.get(field, field)
        own = tuple(prefix + name for prefix in known.prefixes)
        first[name] = paths if name == field else (*own, *paths)
    return known._replace(first=first)


_PRESETS: dict[PresetName, Envelope] = {
    "none": Envelope(),
    "segment": Envelope(
        ("properties.", "traits.", "context.traits.", ""),
        {"customer_id": ("userId",), "event_time": ("timestamp",), "event_id": ("messageId",)},
    ),
    "cloudevents": Envelope(
        ("data.", ""),
        {
            "customer_id": ("data.customer_id", "customer_id", "subject"),
            "event_time": ("data.event_time", "event_time", "time"),
            "event_id": ("id",),
        },
    ),
    "debezium": Envelope(
        ("after.", "payload.after."),
        {
            "event_time": (
                "after.event_time", "payload.after.event_time", "source.ts_ms", "payload.source.ts_ms", "ts_ms",
                "payload.ts_ms",
            ),
            "op": ("op", "payload.op"),
        },
        {"op": ("c", "u", "r")},
        True,
    ),
}  # fmt: skip


def typed(kinds: Mapping[str, Any], envelope: Envelope, *, lenient: bool = False) -> tuple[type[Any], list[Reader]]:
    """A class to decode records into, and for each field a function that reads it. Raises ValueError.

    A path that two fields may be at has one kind.
    """
    at: dict[str, Any] = {}
    for field, kind in kinds.items():
        for path in envelope.paths(field):
            if at.setdefault(path, kind) != kind:
                raise ValueError(f"the field {path!r} would be a number, a text or a time at once")
    event, readers = event_type(at, lenient=lenient)
    by_path = dict(zip(at, readers, strict=True))
    return event, [_first_of([by_path[path] for path in envelope.paths(field)]) for field in kinds]


def _first_of(readers: list[Reader]) -> Reader:
    if len(readers) == 1:
        return readers[0]

    def read(event: Any) -> Any:
        for each in readers:
            found = each(event)
            if found is not None:
                return found
        return None

    return read


class Deletions:
    """Deleted rows in a stream of changes: who is erased by them, if anybody."""

    def __init__(self, envelope: Envelope, customer_id: str, format: Format = PLAIN) -> None:
        kind, (self._op,) = typed({"op": Any}, envelope, lenient=True)
        self._decode: Callable[[bytes], Any] = format.decoder(kind)
        self._anything = format.decoder(Any)
        self._name = customer_id.rpartition(".")[2]

    def erased(self, key: bytes | None, value: bytes | None) -> str | int | None:
        """The customer whose row was deleted; None for a record that deletes none.

        The key of a change is that of the row: where it does not have the customer's id, the row is not the customer's own
        (an order, say). Raises NotMeant for a tombstone of such a row.
        """
        if value is not None and not self._deletes(value):
            return None
        found = self._in_key(key)
        if found is None and value is None:
            raise NotMeant
        return found

    def _deletes(self, value: bytes) -> bool:
        try:
            return bool(self._op(self._decode(value)) == "d")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RecordError):
            return False

    def _in_key(self, key: bytes | None) -> str | int | None:
        try:
            found = self._anything(key or b"null")
            if isinstance(found, dict) and isinstance(found.get("payload"), dict):
                found = found["payload"]
            return id_of(found.get(self._name), self._name) if isinstance(found, dict) else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RecordError):
            return None

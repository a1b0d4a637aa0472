"""What else of a record than its value is read as the event: its key and its headers.

CloudEvents in binary mode have their attributes in headers and the data alone in the value; they are read as those in
structured mode are. Fields may be configured as `key`, `key.id` or `headers.x`.

https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from streamseg.errors import RecordError
from streamseg.formats.keys import KeyFormat, key_value

Headers = Iterable[tuple[str, bytes]] | None

_PREFIX, _VERSION = "ce_", "ce_specversion"
_SCHEMA_GUID = "__value_schema_id"


class Opening(NamedTuple):
    """What is put into an event beside its value, and beside a schema's GUID from its header, which goes before the value.

    Attributes:
        cloud_events: attributes of CloudEvents in binary mode.
        key: the key, read as `key_format` says, as the field `key`.
        headers: names of headers, which become fields of `headers`.
    """

    cloud_events: bool = False
    key: bool = False
    headers: tuple[str, ...] = ()
    key_format: KeyFormat = "string"

    @classmethod
    def of(cls, paths: Iterable[str], key_format: KeyFormat, *, cloud_events: bool) -> Opening:
        """What configured paths need."""
        paths = list(paths)
        headers = dict.fromkeys(path.removeprefix("headers.") for path in paths if path.startswith("headers."))
        key = any(path == "key" or path.startswith("key.") for path in paths)
        return cls(cloud_events, key, tuple(headers), key_format=key_format)

    def opened(self, value: bytes | None, key: bytes | None, headers: Headers) -> bytes | None:
        """The value with what is added; unchanged where there is nothing to add, or where it is no JSON object."""
        if self.cloud_events:
            value = structured(value, headers)
        if value is not None:
            value = next((text for name, text in headers or () if name == _SCHEMA_GUID), b"") + value
        if value is None or not (self.key or self.headers) or not value.lstrip().startswith(b"{"):
            return value
        added: dict[str, object] = {}
        if self.key:
            added["key"] = self._key(key)
        if self.headers:
            there = {name: text.decode(errors="replace") for name, text in headers or () if text is not None}
            added["headers"] = {name: there[name] for name in self.headers if name in there}
        rest = value.lstrip()[1:]
        # What the value itself calls so comes later, and counts.
        return msgspec.json.encode(added)[:-1] + (b"}" if rest.strip() == b"}" else b"," + rest)

    def _key(self, key: bytes | None) -> object:
        try:
            return key_value(key, self.key_format) if key is not None and self.key_format != "avro" else None
        except RecordError:
            return None

    def of_all(self, records: Sequence[Any]) -> list[bytes | None]:
        """The values of a consumer's records, each independent of the others that were polled with it."""
        if self.key or self.headers or any(record.headers for record in records):
            return [self.opened(record.value, record.key, record.headers) for record in records]
        return [record.value for record in records]


NOTHING = Opening()


def structured(value: bytes | None, headers: Headers) -> bytes | None:
    """The value of a record as one in structured mode has it; as it is, where it is in that mode, or an erasure."""
    found = {name: text for name, text in headers or () if name.startswith(_PREFIX)}
    if value is None or _VERSION not in found:
        return value
    attributes = {name.removeprefix(_PREFIX): text.decode(errors="replace") for name, text in found.items()}
    return msgspec.json.encode(attributes)[:-1] + b',"data":' + value + b"}"

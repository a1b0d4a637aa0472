"""CloudEvents in binary mode: attributes in headers, the data alone in the value. They are read as in structured mode.

https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

_PREFIX, _VERSION = "ce_", "ce_specversion"


def structured(value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> bytes | None:
    """The value of a record as one in structured mode has it; as it is, where it is in that mode, or an erasure."""
    found = {name: text for name, text in headers or () if name.startswith(_PREFIX)}
    if value is None or _VERSION not in found:
        return value
    attributes = {name.removeprefix(_PREFIX): text.decode(errors="replace") for name, text in found.items()}
    return msgspec.json.encode(attributes)[:-1] + b',"data":' + value + b"}"

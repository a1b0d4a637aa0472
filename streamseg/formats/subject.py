"""Which records are about one customer: to tell them what is kept, and to erase it."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from streamseg.formats.outputs import DeadLetterLine


class Subject:
    """One customer, and how records about it are recognized."""

    def __init__(self, customer: str, id_of: Callable[[bytes], str | None]) -> None:
        """`id_of`: the customer of an input record; None where it cannot be read."""
        self.customer, self.key, self._id_of = customer, customer.encode(), id_of
        # In what cannot be decoded any mention counts.
        self._mention = re.compile(rb"(?<!\w)" + re.escape(self.key) + rb"(?!\w)")

    def is_published(self, topic: str, value: bytes) -> bool:
        """Of a published record: a tag, or a dead letter as a line."""
        if topic != "dead-letters":
            return self._is_tag(value)
        try:
            letter = msgspec.json.decode(value, type=DeadLetterLine)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        of_input = letter.value_base64 if letter.value is None else letter.value.encode()
        return letter.key == self.customer or (of_input is not None and self.is_input(of_input))

    def _is_tag(self, value: bytes) -> bool:
        try:
            found = msgspec.json.decode(value, type=dict[str, msgspec.Raw]).get("customer_id")
            return found is not None and msgspec.json.decode(found) == self.customer
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False

    def is_input(self, value: bytes) -> bool:
        """Of an input record."""
        found = self._id_of(value)
        return found == self.customer if found is not None else self._mention.search(value) is not None

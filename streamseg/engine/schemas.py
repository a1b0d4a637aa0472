"""Schemas that the input's values name, and those of what is written in Avro.

They are fetched or registered before a batch, and kept in the model log with the first batch that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from streamseg.engine.ports import Records, TagSchemas
from streamseg.engine.replica import Replica
from streamseg.formats.events import EventFields
from streamseg.formats.wire import KnownSchema, SchemaBook, SchemaSource


class Schemas:
    """What a job knows of them: all that stand in its model log, and those that are about to."""

    def __init__(self, fields: EventFields, written: Mapping[str, bytes], replica: Replica) -> None:
        """`written`: by subject, the schemas of the tags' keys and values, in this order; none for text and JSON."""
        self.book = SchemaBook(fields.outermost)
        self._keys_name_them = fields.key_format == "avro"
        self._replica = replica
        self._subjects = written
        self._written: dict[str, KnownSchema] = {}

    def fetch(self, records: Iterable[Records], source: SchemaSource) -> None:
        """See to it that all that are needed are known. Raises RetriableError where their source is away, ConfigError."""
        self.learn(self._replica.schemas.values())
        lacking = self.book.lacking(self._naming(records))
        if lacking:
            self.book.learn(source.fetch(lacking))
        for subject, body in self._subjects.items():
            if subject not in self._written:
                self._written[subject] = source.register(subject, body)

    def learn(self, schemas: Iterable[KnownSchema]) -> None:
        given = list(schemas)
        self.book.learn([one for one in given if not one.written and self.book.known.get(one.id) != one])
        self._written |= {one.written: one for one in given if self._subjects.get(one.written) == one.body}

    def new_in(self, records: Iterable[Records]) -> list[KnownSchema]:
        """Those that records name, or that tags are written with, and that the log does not hold."""
        named = [self.book.known[one] for one in self.book.named(self._naming(records)) if one in self.book.known]
        return [one for one in [*named, *self._written.values()] if one.key not in self._replica.schemas]

    def of_tags(self) -> TagSchemas | None:
        """None where tags are written as JSON."""
        if not self._subjects:
            return None
        self.learn(self._replica.schemas.values())
        key, value = (self._written[subject].id for subject in self._subjects)
        return TagSchemas(key, value)

    def _naming(self, records: Iterable[Records]) -> Iterator[bytes | None]:
        """All that may name a schema."""
        for each in records:
            yield from each.values
            if self._keys_name_them:
                yield from each.keys

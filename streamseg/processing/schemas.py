"""Schemas that the input's values name: fetched before a batch, kept in the model log with the first batch that needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamseg.processing.replica import Replica
from streamseg.processing.transport import Records
from streamseg.records.events import EventFields
from streamseg.records.wire import KnownSchema, SchemaBook, SchemaSource


class InputSchemas:
    """What a job knows of them: all that stand in its model log, and those that are about to."""

    def __init__(self, fields: EventFields, replica: Replica) -> None:
        self.book = SchemaBook(fields.outermost)
        self._keys_name_them = fields.key_format == "avro"
        self._replica = replica

    def fetch(self, records: Iterable[Records], source: SchemaSource) -> None:
        """See to it that all that records name are known. Raises RetriableError where their source is away, ConfigError."""
        self.learn(self._replica.schemas.values())
        lacking = self.book.lacking(self._naming(records))
        if lacking:
            self.book.learn(source.fetch(lacking))

    def learn(self, schemas: Iterable[KnownSchema]) -> None:
        self.book.learn([one for one in schemas if self.book.known.get(one.id) != one])

    def new_in(self, records: Iterable[Records]) -> list[KnownSchema]:
        """Those that records name and that the log does not hold."""
        named = self.book.named(self._naming(records))
        return [self.book.known[one] for one in named if one not in self._replica.schemas and one in self.book.known]

    def _naming(self, records: Iterable[Records]) -> Iterator[bytes | None]:
        """All that may name a schema."""
        for each in records:
            yield from each.values
            if self._keys_name_them:
                yield from each.keys

"""What a look at a job's surroundings finds: one thing a line, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from streamseg.errors import StreamsegError
from streamseg.formats.events import Decoded, EventDecoder
from streamseg.formats.wire import NO_REGISTRY, SchemaSource, spoken

# Share of repeated events from which on it is worth saying.
_REPEATED = 0.01


class Finding(NamedTuple):
    """`ok`: True, False, or None for what is not wrong but should be known."""

    what: str
    ok: bool | None
    text: str


def each(what: str, examine_it: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Findings, and an error as one more: the other looks go on."""
    try:
        yield from examine_it()
    except StreamsegError as error:
        yield Finding(what, False, in_short(error))


def tried(what: str, attempt: Callable[[], str]) -> Finding:
    """What an attempt says of itself, or its error."""
    try:
        text = attempt()
    except StreamsegError as error:
        return Finding(what, False, in_short(error))
    return Finding(what, True, text)


def in_short(error: StreamsegError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


_KINDS = {"avro": "Avro", "protobuf": "Protobuf", "json": "JSON Schema"}


class Sample(NamedTuple):
    """What records are looked at with.

    Attributes:
        now_us: the clock; deduplicated: whether the job drops repeated events.
        schemas: of values that name one.
    """

    decoder: EventDecoder
    now_us: int
    deduplicated: bool = False
    schemas: SchemaSource = NO_REGISTRY

    def findings(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None], timestamps_ms: Sequence[int | None]
    ) -> Iterator[Finding]:
        """Which schemas records name, whether they are events, and whether some were sent twice."""
        yield from self._schemas([*values, *(keys if self.decoder.fields.key_format == "avro" else ())])
        decoded, rejected = self.decoder.decode(keys, values, timestamps_ms, self.now_us)
        if rejected:
            first = rejected[0].error
            # One poison pill is the producer's matter; if all are, the settings are wrong.
            ok = None if decoded.ids else False
            yield Finding("events", ok, f"{len(rejected)} of {len(values)} would be dead letters: {first.code}: {first}")
        else:
            yield _told_of(decoded)
        repeated = _repeated(decoded)
        if repeated >= _REPEATED * max(1, len(decoded.ids)) and not self.deduplicated:
            text = f"{repeated} of {len(decoded.ids)} events have an event_id that their customer had before: set "
            yield Finding("event ids", None, text + 'input.deduplicate = "24h", or each counts twice')

    def _schemas(self, values: Sequence[bytes | None]) -> Iterator[Finding]:
        book = self.decoder.book
        ids = book.named(values)
        for schema in self.schemas.fetch(ids) if ids else ():
            book.learn([schema])
            if schema.kind == "missing":
                yield Finding("schemas", False, f"records name {schema.name}: {schema.body.decode()}")
            else:
                yield Finding("schemas", True, f"records name {schema.name}, which is {_KINDS[schema.kind]}")


def written_schemas(schemas: SchemaSource, written: Mapping[str, bytes]) -> Iterator[Finding]:
    """Whether a registry has the schemas that tags are written with. `written`: of JobSettings."""
    for subject, body in written.items():
        found = schemas.registered(subject, body)
        if found is None:
            yield Finding("output schemas", None, f"{subject}: not there yet, `streamseg run` registers it")
        else:
            yield Finding("output schemas", True, f"{subject}: {spoken(found.id)}")


def _repeated(decoded: Decoded) -> int:
    pairs = zip(decoded.ids, decoded.event_ids or (), strict=False)
    given = [(customer, event) for customer, event in pairs if event is not None]
    return len(given) - len(set(given))


def _told_of(decoded: Decoded) -> Finding:
    """Events that can be read, and may not be what they should be for all that."""
    text, events = f"a sample of {len(decoded.ids)} can be read", ~decoded.erase
    if not events.any():
        return Finding("events", True, text)
    lacking = [name for name, column in decoded.numbers.items() if np.isnan(column[events]).all()]
    lacking += [name for name, texts in decoded.texts.items() if all(value is None for value in texts)]
    if lacking:
        return Finding("events", None, f"{text}, none has: {', '.join(sorted(lacking))}; [[features]] names the fields")
    return Finding("events", True, text)

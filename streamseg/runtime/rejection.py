"""Says so, once, where a whole input cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from streamseg.engine.events import BatchCommitted, Observation, Observer, Waiting
from streamseg.errors import RejectedInputError
from streamseg.formats.events import EventFields
from streamseg.formats.likely import likely_name, setting_of

# After so many records, of which so many are dead letters, it is the input or the settings, and no single record.
_RECORDS, _SHARE = 1_000, 0.99

_TO_DO = {
    "not_json": "a line of JSON is one object; a row of a table has as many cells as its header",
    "not_utf8": "the input is not UTF-8: convert it, or set input.encoding for a CSV file",
    "unknown_schema": "set input.registry to the URL of the schema registry; `streamseg doctor` names the schemas",
    "not_of_schema": "were the records written with the schema that they name, in input.format?",
    "not_an_object": "an event is a JSON object",
    "bad_time": "set input.time_format, such as %d/%m/%Y",
    "implausible_time": "set input.time_unit, or input.earliest_time for events of long ago",
    "future_time": "set input.time_unit, or check the clock of this machine and of the producer",
    "not_finite": "an event has numbers up to 1e100",
    "wrong_type": "see the message of a dead letter for the cell",
}


class RejectionWatch:
    """Counts dead letters. `said`: is told at most once that nearly all records are."""

    def __init__(self, fields: EventFields, said: Observer, stop: Callable[[], None] | None = None) -> None:
        """`stop`: is called then, too."""
        self._fields, self._said, self._stop = fields, said, stop
        self._records = self._dropped = 0
        self._letters: Counter[tuple[str, str]] = Counter()
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}
        self._reported = False

    def observe(self, event: Observation) -> None:
        if not isinstance(event, BatchCommitted):
            return
        self._records += sum(event.outcomes.values())
        self._dropped += event.outcomes.get("dropped", 0)
        for kind, rejection in event.rejected.items():
            self._letters[kind] += rejection.n
            self._names.setdefault(kind, rejection.names)
        letters = self._letters.total()
        if not self._reported and self._records >= _RECORDS and letters >= _SHARE * self._records:
            self._reported = True
            message = f"{letters:,} of the first {self._records:,} records are dead letters, {self._most()}"
            (code, field), _ = self._letters.most_common(1)[0]
            self._said.observe(Waiting("input_rejected", message, {"code": code, "field": field, "dead_letters": letters}))
            if self._stop is not None:
                self._stop()

    def check(self) -> None:
        """Raises RejectedInputError where no record at all could be used."""
        if self._records and self._dropped and self._letters.total() + self._dropped == self._records:
            raise RejectedInputError(
                f"none of {self._records:,} records was used: {self._dropped:,} are dropped by input.where or input.preset",
                hint="are the values written as in the records, upper and lower case, too?",
            )
        if self._records and self._letters.total() == self._records:
            message = f"none of {self._records:,} records could be used: they are dead letters"
            raise RejectedInputError(message, hint=self._most())

    def _most(self) -> str:
        """The commonest reason, and what to do."""
        kind, n = self._letters.most_common(1)[0]
        code, field = kind
        of_field = f" of {field!r}" if field else ""
        return f"{n:,} for {code}{of_field}: {self._to_do(code, field, self._names[kind])}"

    def _to_do(self, code: str, field: str, names: tuple[str, ...]) -> str:
        name = field.partition(".")[0]
        if name and name not in names and names:
            setting = setting_of(field, self._fields.customer_id, self._fields.event_time)
            used = {self._fields.customer_id, self._fields.event_time, *self._fields.numbers, *self._fields.texts}
            likely = likely_name(field, [one for one in names if one not in used], setting)
            shown = ", ".join(map(repr, names[:10]))
            return f"is it {likely!r}? Set {setting} = {likely!r}" if likely else f"set {setting}; there are {shown}"
        return _TO_DO.get(code, "`streamseg doctor` says more")

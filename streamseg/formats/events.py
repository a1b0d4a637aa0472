"""Events: JSON to columns.

Decoding is one msgspec call a record, into a class made from the configured fields. Only a record that does not fit is
looked at again, slowly, to say which code it gets.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.core.numeric.types import MAX_MAGNITUDE
from streamseg.errors import DeadLetterCode, RecordError
from streamseg.formats.cells import event_id_of, flag_of, id_of, number_of, text_of
from streamseg.formats.envelopes import Deletions, Envelope, NotMeant, typed
from streamseg.formats.filters import Condition, Derived, Filter, ValueFilter
from streamseg.formats.json_faults import not_of_this_shape, parsed
from streamseg.formats.keys import KeyFormat, id_in_key
from streamseg.formats.times import TimeRules, microseconds, plausible, time_error, time_of
from streamseg.formats.wire import Format, FormatName, SchemaBook

MAX_ID_CHARACTERS = 4_096

_PORTION = 1_000
_ERASE = "erase"
_EVENT_ID = "event_id"


class EventFields(NamedTuple):
    """Dotted paths into the event, how its times are read, and which events are meant.

    Attributes:
        where: of the input; others are dropped. derived: columns of features that are about some events only.
        key_format: of the keys of records without a value, which erase the customer.
        format: of values; what names a schema is read through it.
        envelope: where in a record the fields may be.
    """

    customer_id: str = "customer_id"
    event_time: str = "event_time"
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    times: TimeRules = TimeRules()
    where: Filter = Filter()
    derived: tuple[Derived, ...] = ()
    key_format: KeyFormat = "string"
    envelope: Envelope = Envelope()
    format: FormatName = "auto"

    @property
    def meant(self) -> Filter:
        """Which records are events that are asked for."""
        kinds = tuple(Condition(field, values) for field, values in self.envelope.kinds.items())
        return Filter((*kinds, *self.where.conditions))

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all fields."""
        return (self.customer_id, self.event_time, *self.numbers, *self.columns)

    @property
    def outermost(self) -> frozenset[str]:
        """Names of the outermost fields that are read, wherever the envelope has them."""
        names = (*self.paths, _ERASE, _EVENT_ID, *self.meant.fields)
        found = [path for name in names for path in self.envelope.paths(name)]
        # A key names the customer by the innermost name.
        return frozenset({path.split(".")[0] for path in found} | {self.customer_id.rpartition(".")[2]})

    @property
    def columns(self) -> tuple[str, ...]:
        """All fields that are read as texts, also those that only conditions ask for."""
        asked = (*self.meant.fields, *(field for one in self.derived for field in one.filter.fields))
        return tuple(dict.fromkeys((*self.texts, *asked)))


class Decoded(NamedTuple):
    """Accepted records as columns, in order; `at` are their places in the input.

    `times` in microseconds; `event_ids` None where no event has one; `numbers` NaN where absent.
    """

    at: npt.NDArray[np.int64]
    ids: list[str]
    times: npt.NDArray[np.int64]
    erase: npt.NDArray[np.bool_]
    event_ids: list[str | None] | None
    numbers: dict[str, npt.NDArray[np.float64]]
    texts: dict[str, list[str | None]]


class Rejected(NamedTuple):
    at: int
    error: RecordError


class Decoder(Protocol):
    """Input records to columns."""

    def decode(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int | None],
        now_us: int,
    ) -> tuple[Decoded, list[Rejected]]:
        """Columns of the usable records, and the others with their reasons."""
        ...


class EventDecoder:
    """Decodes events with the configured fields."""

    def __init__(self, fields: EventFields, max_bytes: int = 1_000_000, book: SchemaBook | None = None) -> None:
        """`book`: the schemas that are known, where values name theirs."""
        self.fields = fields
        self.book = SchemaBook(fields.outermost) if book is None else book
        format = self._format = Format(fields.format, self.book)
        self._anything = format.decoder(Any)
        self.max_bytes = max_bytes
        self._columns = [fields.customer_id, fields.event_time, _ERASE, _EVENT_ID, *fields.numbers, *fields.columns]
        kinds: dict[str, Any] = {
            fields.customer_id: str | int | None,
            fields.event_time: (datetime if fields.times.format is None else str) | int | float | None,
            _ERASE: bool | None,
            _EVENT_ID: str | int | None,
        }
        kinds |= dict.fromkeys(fields.numbers, float | None)
        kinds |= dict.fromkeys(fields.columns, str | int | bool | None)
        strict, self._readers = typed(kinds, fields.envelope)
        self._decode: Callable[[bytes], Any] = format.decoder(strict)
        lenient, self._lenient_readers = typed(dict.fromkeys(kinds, Any), fields.envelope, lenient=True)
        self._decode_lenient: Callable[[bytes], Any] = format.decoder(lenient)
        # What is enough to erase a customer, whatever else is wrong with a record; and to tell whose it is.
        ids = dict.fromkeys((fields.customer_id, _ERASE), Any)
        erasure, self._erasure_readers = typed(ids, fields.envelope, lenient=True)
        self._decode_erasure: Callable[[bytes], Any] = format.decoder(erasure)
        self._filter = ValueFilter(fields.meant, fields.envelope, format) if fields.meant.conditions else None
        self._deletions = Deletions(fields.envelope, fields.customer_id, format) if fields.envelope.deletes else None

    def decode(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int | None],
        now_us: int,
    ) -> tuple[Decoded, list[Rejected]]:
        """Columns of the usable records, and the others with their reasons. Times may be an hour ahead of `now_us`."""
        columns = self._decode_all(values)
        at: Sequence[int] = range(len(values))
        rejected: list[Rejected] = []
        if columns is None:
            columns, at, rejected = self._decode_each(keys, values)
        times, bad = self._times(columns, at, timestamps_ms, now_us)
        numbers = {
            name: np.array(column, dtype=np.float64) for name, column in zip(self.fields.numbers, columns[4:], strict=False)
        }
        for name, column in numbers.items():
            for i in np.flatnonzero(np.abs(column) > MAX_MAGNITUDE).tolist():
                if columns[2][i]:
                    column[i] = np.nan
                    continue
                bad.setdefault(i, RecordError(DeadLetterCode.NOT_FINITE, f"{float(column[i])!r} is above 1e100", name))
        rejected += [Rejected(at[i], error) for i, error in bad.items()]
        decoded = self._decoded(columns, at, times, numbers)
        if bad:
            decoded = without(decoded, bad)
        rejected = [Rejected(i, self._format.naming_schema(error, values[i])) for i, error in rejected]
        return self._meant(decoded, sorted(rejected, key=operator.attrgetter("at")), values)

    def _meant(
        self, decoded: Decoded, rejected: list[Rejected], values: Sequence[bytes | None]
    ) -> tuple[Decoded, list[Rejected]]:
        """Without events that are not meant, and with the columns that are derived. Erasures always are meant."""
        fields = self.fields
        if self._filter is not None:
            rejected = [one for one in rejected if not self._filter.drops(values[one.at])]
            meant = fields.meant.matches(decoded.texts, len(decoded.ids)) | decoded.erase
            if not meant.all():
                decoded = without(decoded, set(np.flatnonzero(~meant).tolist()))
        for one in fields.derived:
            n = len(decoded.ids)
            which = one.filter.matches(decoded.texts, n)
            if one.is_text and one.field is not None:
                texts = decoded.texts[one.field]
                decoded.texts[one.column] = [
                    text if kept else None for text, kept in zip(texts, which.tolist(), strict=True)
                ]
            else:
                numbers = np.ones(n) if one.field is None else decoded.numbers[one.field]
                decoded.numbers[one.column] = np.where(which, numbers, np.nan)
        return decoded, rejected

    def ids(self, values: Sequence[bytes | None]) -> list[str | None]:
        """Customers' ids where they can be read, whatever else may be wrong with a record."""
        return [None if value is None else self._id(value) for value in values]

    def _id(self, value: bytes) -> str | None:
        try:
            found = id_of(self._erasure_readers[0](self._decode_erasure(value)), self.fields.customer_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RecordError):
            return None
        return str(found) if found not in (None, "") else None

    def _decoded(
        self,
        columns: list[list[Any]],
        at: Sequence[int],
        times: npt.NDArray[np.int64],
        numbers: dict[str, npt.NDArray[np.float64]],
    ) -> Decoded:
        ids = columns[0] if set(map(type, columns[0])) == {str} else [str(i) for i in columns[0]]
        erase = columns[2]
        texts = columns[4 + len(self.fields.numbers) :]
        return Decoded(
            np.arange(len(at)) if isinstance(at, range) else np.array(at, dtype=np.int64),
            ids,
            times,
            np.array(erase, dtype=np.bool_) if any(erase) else np.zeros(len(ids), dtype=np.bool_),
            None if set(columns[3]) <= {None} else [None if i is None else str(i) for i in columns[3]],
            numbers,
            {
                name: [text_of(text, name) for text in column]
                for name, column in zip(self.fields.columns, texts, strict=True)
            },
        )

    def _decode_all(self, values: Sequence[bytes | None]) -> list[list[Any]] | None:
        """Columns of all records; None where one of them needs a closer look. In portions that stay in the cache."""
        columns: list[list[Any]] = [[] for _ in self._columns]
        longest = 0
        try:
            for first in range(0, len(values), _PORTION):
                portion: Any = values[first : first + _PORTION]
                longest = max(longest, *map(len, portion))
                events = list(map(self._decode, portion))
                for column, read in zip(columns, self._readers, strict=True):
                    column.extend(map(read, events))
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError, RecordError):
            return None
        if self.fields.times.format is not None:
            try:
                columns[1] = [time_of(time, self.fields.times, self.fields.event_time) for time in columns[1]]
            except RecordError:
                return None
        if self._deletions is not None and "d" in columns[self._columns.index("op")]:
            return None
        ids = columns[0]
        fine = longest <= self.max_bytes and None not in ids and "" not in ids
        if not fine or (longest > MAX_ID_CHARACTERS and max(map(len, map(str, ids))) > MAX_ID_CHARACTERS):
            return None
        return columns

    def _decode_each(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> tuple[list[list[Any]], list[int], list[Rejected]]:
        columns: list[list[Any]] = [[] for _ in self._columns]
        at, rejected = [], []
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                row = self._decode_one(key, value)
                self._check_id(row[0])
            except NotMeant:
                continue
            except RecordError as error:
                rejected.append(Rejected(i, error))
                continue
            for column, field in zip(columns, row, strict=True):
                column.append(field)
            at.append(i)
        return columns, at, rejected

    def _decode_one(self, key: bytes | None, value: bytes | None) -> tuple[Any, ...]:
        """A row, the same as `_decode_all` would have made of it. Raises RecordError."""
        if self._deletions is not None and (gone := self._deletions.erased(key, value)) is not None:
            return self._erased(gone)
        if value is None:
            return self._erasure(key)
        self._check_size(value)
        try:
            event = parsed(self._decode, value)
            row = tuple(read(event) for read in self._readers)
        except msgspec.ValidationError:
            return self._leniently(value)
        return row if self.fields.times.format is None else self._with_format(row)

    def _with_format(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row if row[2] else (row[0], time_of(row[1], self.fields.times, self.fields.event_time), *row[2:])

    def _erasure(self, key: bytes | None) -> tuple[Any, ...]:
        return self._erased(id_in_key(key, self.fields.key_format, self.fields.customer_id, self.book))

    def _erased(self, customer_id: str | int) -> tuple[Any, ...]:
        return (customer_id, None, True, *([None] * (len(self._columns) - 3)))

    def _leniently(self, value: bytes) -> tuple[Any, ...]:
        """A record whose cells are of other types than usual, but may say the same. Raises RecordError."""
        fields, n_numbers = self.fields, len(self.fields.numbers)
        try:
            event = parsed(self._decode_lenient, value)
        except msgspec.ValidationError as error:
            erased = self._erased_anyhow(value)
            if erased is None:
                raise not_of_this_shape(self._anything, value, error) from None
            return erased
        cells = [read(event) for read in self._lenient_readers]
        customer, erase = id_of(cells[0], fields.customer_id), flag_of(cells[2], _ERASE)
        if erase and customer is not None:
            return self._erased(customer)
        event_id = event_id_of(cells[3], _EVENT_ID)
        numbers = [number_of(cell, name) for cell, name in zip(cells[4:], fields.numbers, strict=False)]
        texts = [text_of(cell, name) for cell, name in zip(cells[4 + n_numbers :], fields.columns, strict=True)]
        return (customer, time_of(cells[1], fields.times, fields.event_time), erase, event_id, *numbers, *texts)

    def _erased_anyhow(self, value: bytes) -> tuple[Any, ...] | None:
        """An erasure, for which the id is enough."""
        try:
            event = parsed(self._decode_erasure, value)
            customer, erase = (read(event) for read in self._erasure_readers)
            if flag_of(erase, _ERASE) and (customer := id_of(customer, self.fields.customer_id)) is not None:
                return self._erased(customer)
        except (msgspec.ValidationError, RecordError):
            pass
        return None

    def _check_size(self, value: bytes | None) -> None:
        if value is not None and len(value) > self.max_bytes:
            message = f"{len(value)} bytes, the limit is {self.max_bytes}"
            raise RecordError(DeadLetterCode.TOO_LARGE, message)

    def _check_id(self, customer_id: object) -> None:
        if not _is_id(customer_id):
            message = f"the event names no customer in {self.fields.customer_id!r}"
            raise RecordError(DeadLetterCode.MISSING_CUSTOMER_ID, message, self.fields.customer_id)
        if len(str(customer_id)) > MAX_ID_CHARACTERS:
            message = f"a customer id has at most {MAX_ID_CHARACTERS} characters"
            raise RecordError(DeadLetterCode.TOO_LARGE, message, self.fields.customer_id)

    def _times(
        self, columns: Sequence[Sequence[Any]], at: Sequence[int], timestamps_ms: Sequence[int | None], now_us: int
    ) -> tuple[npt.NDArray[np.int64], dict[int, RecordError]]:
        """Event times in microseconds, and what is wrong with some. An erasure needs no time."""
        times, erase, rules = columns[1], columns[2], self.fields.times
        exact = microseconds(times, rules)
        bad: dict[int, RecordError] = {}
        for i in np.flatnonzero(~plausible(exact, now_us, rules)).tolist():
            if not erase[i]:
                given, timestamp, field = times[i], timestamps_ms[at[i]], self.fields.event_time
                if math.isnan(exact[i]) and timestamp is not None:
                    given, exact[i], field = f"the record's timestamp {timestamp}", timestamp * 1e3, ""
                    if plausible(exact[i : i + 1], now_us, rules)[0]:
                        continue
                bad[i] = time_error(exact[i], given, field, rules)
            exact[i] = 0.0
        return np.rint(exact).astype(np.int64), bad


def _is_id(value: object) -> bool:
    return value is not None and value != ""


def without(decoded: Decoded, bad: Container[int]) -> Decoded:
    """Events but for those at some places. IN all."""
    kept = np.array([i for i in range(len(decoded.ids)) if i not in bad], dtype=np.int64)
    pick = kept.tolist()
    return Decoded(
        decoded.at[kept],
        [decoded.ids[i] for i in pick],
        decoded.times[kept],
        decoded.erase[kept],
        None if decoded.event_ids is None else [decoded.event_ids[i] for i in pick],
        {name: column[kept] for name, column in decoded.numbers.items()},
        {name: [column[i] for i in pick] for name, column in decoded.texts.items()},
    )

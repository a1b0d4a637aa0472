"""Events: JSON to columns.

Decoding is one msgspec call a record, into a class made from the configured fields. Only a record that does not fit is
looked at again, slowly, to say which code it gets.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.errors import DeadLetterCode, RecordError
from streamseg.kernel.types import MAX_MAGNITUDE
from streamseg.records.event_type import event_type

MAX_AHEAD_US = 3_600_000_000
MAX_ID_CHARACTERS = 4_096

_PORTION = 1_000
_ERASE = "erase"
_EVENT_ID = "event_id"


class EventFields(NamedTuple):
    """Dotted paths into the event."""

    customer_id: str = "customer_id"
    event_time: str = "event_time"
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


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
    """Decodes JSON events with the configured fields."""

    def __init__(self, fields: EventFields, max_bytes: int = 1_000_000) -> None:
        self.fields = fields
        self.max_bytes = max_bytes
        self._columns = [fields.customer_id, fields.event_time, _ERASE, _EVENT_ID, *fields.numbers, *fields.texts]
        kinds: dict[str, Any] = {
            fields.customer_id: str | int | None,
            fields.event_time: datetime | int | float | None,
            _ERASE: bool | None,
            _EVENT_ID: str | int | None,
        }
        kinds |= dict.fromkeys(fields.numbers, float | None)
        kinds |= dict.fromkeys(fields.texts, str | int | None)
        strict, self._readers = event_type(kinds)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(strict).decode
        lenient, _ = event_type(kinds | {fields.event_time: Any})
        erasure, self._erasure_readers = event_type({name: kinds[name] for name in (fields.customer_id, _ERASE)})
        self._decode_erasure: Callable[[bytes], Any] = msgspec.json.Decoder(erasure).decode
        only_id, (self._read_id,) = event_type({fields.customer_id: str | int | None})
        self._decode_id: Callable[[bytes], Any] = msgspec.json.Decoder(only_id).decode
        self._decode_any_time: Callable[[bytes], Any] = msgspec.json.Decoder(lenient).decode

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
            decoded = _without(decoded, bad)
        return decoded, sorted(rejected, key=operator.attrgetter("at"))

    def ids(self, values: Sequence[bytes | None]) -> list[str | None]:
        """Customers' ids where they can be read, whatever else may be wrong with a record."""
        return [None if value is None else self._id(value) for value in values]

    def _id(self, value: bytes) -> str | None:
        try:
            found = self._read_id(self._decode_id(value))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
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
                name: [None if text is None else str(text) for text in column]
                for name, column in zip(self.fields.texts, texts, strict=True)
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
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError):
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
            except RecordError as error:
                rejected.append(Rejected(i, error))
                continue
            for column, field in zip(columns, row, strict=True):
                column.append(field)
            at.append(i)
        return columns, at, rejected

    def _decode_one(self, key: bytes | None, value: bytes | None) -> tuple[Any, ...]:
        if value is None:
            return self._erasure(key)
        self._check_size(value)
        try:
            event = self._parsed(self._decode, value)
            return tuple(read(event) for read in self._readers)
        except msgspec.ValidationError as error:
            return self._other_time(value, error)

    def _parsed(self, decode: Callable[[bytes], Any], value: bytes) -> Any:
        """Raises RecordError where it is not JSON, ValidationError where it is of another type."""
        try:
            return decode(value)
        except RecursionError:
            raise RecordError(DeadLetterCode.NOT_JSON, "the value is nested too deeply") from None
        except UnicodeDecodeError:
            raise RecordError(DeadLetterCode.NOT_UTF8, "the value is not UTF-8") from None
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            raise self._malformed(value, error) from None

    def _erasure(self, key: bytes | None) -> tuple[Any, ...]:
        if not key:
            raise RecordError(DeadLetterCode.MISSING_CUSTOMER_ID, "a null value without a key names nobody to erase")
        try:
            customer_id = key.decode()
        except UnicodeDecodeError:
            raise RecordError(DeadLetterCode.NOT_UTF8, "the key is not UTF-8") from None
        return self._erased(customer_id)

    def _erased(self, customer_id: str | int) -> tuple[Any, ...]:
        return (customer_id, None, True, *([None] * (len(self._columns) - 3)))

    def _other_time(self, value: bytes, error: msgspec.ValidationError) -> tuple[Any, ...]:
        """An erasure, for which the id is enough; a time that ISO 8601 allows and RFC 3339 does not; or what is wrong."""
        try:
            event = self._parsed(self._decode_erasure, value)
            customer_id, erase = (read(event) for read in self._erasure_readers)
        except msgspec.ValidationError:
            customer_id, erase = None, None
        if erase and customer_id is not None:
            return self._erased(customer_id)
        text = str(error)
        where = re.search(r"`\$\.?([^`]*)`$", text)
        field = where[1] if where else ""
        if "out of range" in text:
            raise RecordError(DeadLetterCode.NOT_FINITE, text, field) from None
        if field != self.fields.event_time:
            if not field:
                # What begins as JSON of another type may not go on so, as a row of a table does not.
                self._parsed(msgspec.json.decode, value)
            code = DeadLetterCode.WRONG_TYPE if field else DeadLetterCode.NOT_AN_OBJECT
            raise RecordError(code, text, field) from None
        try:
            event = self._decode_any_time(value)
            row = tuple(read(event) for read in self._readers)
        except msgspec.ValidationError as other:
            return self._other_time_failed(other)
        if not isinstance(row[1], str):
            raise RecordError(DeadLetterCode.BAD_TIME, text, field) from None
        try:
            return (row[0], datetime.fromisoformat(row[1].strip()), *row[2:])
        except ValueError:
            message = f"{row[1][:40]!r} is neither ISO 8601 nor epoch milliseconds"
            raise RecordError(DeadLetterCode.BAD_TIME, message, field) from None

    @staticmethod
    def _other_time_failed(error: msgspec.ValidationError) -> tuple[Any, ...]:
        where = re.search(r"`\$\.?([^`]*)`$", str(error))
        raise RecordError(DeadLetterCode.WRONG_TYPE, str(error), where[1] if where else "") from None

    @staticmethod
    def _malformed(value: bytes, error: msgspec.DecodeError) -> RecordError:
        if "UTF-8" in str(error) or "utf-8" in str(error):
            return RecordError(DeadLetterCode.NOT_UTF8, "the value is not UTF-8")
        if "out of range" in str(error):
            return RecordError(DeadLetterCode.NOT_FINITE, str(error))
        constants: list[str] = []
        try:
            json.loads(value, parse_constant=constants.append)
        except UnicodeDecodeError:
            return RecordError(DeadLetterCode.NOT_UTF8, "the value is not UTF-8")
        except (ValueError, RecursionError):
            return RecordError(DeadLetterCode.NOT_JSON, str(error))
        if constants:
            return RecordError(DeadLetterCode.NOT_FINITE, f"{constants[0]} is no JSON and no measurement")
        return RecordError(DeadLetterCode.NOT_JSON, str(error))

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
        times, erase = columns[1], columns[2]
        exact = _microseconds(times)
        bad: dict[int, RecordError] = {}
        latest = now_us + MAX_AHEAD_US
        for i in np.flatnonzero(~((exact <= latest) & (exact >= _EARLIEST_US))).tolist():
            if not erase[i]:
                given, timestamp, field = times[i], timestamps_ms[at[i]], self.fields.event_time
                if math.isnan(exact[i]) and timestamp is not None:
                    given, exact[i], field = f"the record's timestamp {timestamp}", timestamp * 1e3, ""
                error = _time_error(exact[i], given, latest, field)
                if error is None:
                    continue
                bad[i] = error
            exact[i] = 0.0
        return np.rint(exact).astype(np.int64), bad


def _microseconds(times: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Of ISO times (UTC where no offset is given) and epoch milliseconds; NaN where there is none."""
    kinds = set(map(type, times))
    if kinds <= {int, float}:
        try:
            return np.array(times, dtype=np.float64) * 1e3
        except OverflowError:
            return np.array([_microsecond(time) for time in times])
    if kinds == {datetime} and None not in set(map(operator.attrgetter("tzinfo"), times)):
        return np.array(list(map(datetime.timestamp, times))) * 1e6
    return np.array([_microsecond(time) for time in times])


def _microsecond(time: Any) -> float:
    if time is None:
        return math.nan
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6
    try:
        return float(time) * 1e3
    except OverflowError:
        # An integer of 309 digits or more.
        return math.inf if time > 0 else -math.inf


def _time_error(exact: float, given: Any, latest: float, field: str) -> RecordError | None:
    """Why a time (microseconds) cannot be an event's, or None. `given`: as it was written; `latest`: in microseconds."""
    if math.isnan(exact):
        return RecordError(DeadLetterCode.MISSING_TIME, f"neither the event's {field!r} nor its record has a time", field)
    if _EARLIEST_US <= exact <= latest:
        return None
    # Python refuses to write an integer of more than 4,300 digits.
    shown = f"an integer of {given.bit_length()} bits" if isinstance(given, int) and abs(given) >= 10**30 else given
    if latest < exact <= _LATEST_US:
        return RecordError(DeadLetterCode.FUTURE_TIME, f"{shown} is over an hour ahead of the clock", field)
    return RecordError(DeadLetterCode.BAD_TIME, f"{shown} is no time of the years 1 to 9999", field)


_EARLIEST_US, _LATEST_US = -62_135_596_800e6, 253_402_300_799e6


def _is_id(value: object) -> bool:
    return value is not None and value != ""


def _without(decoded: Decoded, bad: dict[int, RecordError]) -> Decoded:
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

"""Event times: ISO 8601, a number since 1970 in some unit, a compact date, or a format of the user's own.

All become microseconds since 1970, UTC, in the proleptic Gregorian calendar.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from streamseg.errors import DeadLetterCode, RecordError

MAX_AHEAD_US = 3_600_000_000
YEAR_1990_US = 631_152_000_000_000
TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
# Years 1 to 9999.
_FIRST_US, _LAST_US = -62_135_596_800e6, 253_402_300_799e6
_US_EACH = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
# The unit of a number that says none, by its size: each of these is a time of the years 1973 to 5138 in its unit.
_LEAST = {"ns": 1e17, "us": 1e14, "ms": 1e11, "s": 0.0}
# As numbers, 20240131 and 20240131235959 are dates; in no unit are they times of the years 1971 to 2571.
_DATES, _DATE_TIMES = (19_000_101, 22_001_231), (19_000_101_000_000, 22_001_231_235_959)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class TimeRules(NamedTuple):
    """How times are read.

    Attributes:
        unit: of numbers; "auto": by their size.
        format: of texts, as `datetime.strptime` takes it; None for ISO 8601.
        zone: IANA name of the time zone of times that name none. Of a local time that was there twice, the first is meant.
        earliest_us: earlier times are not believed.
    """

    unit: TimeUnit = "auto"
    format: str | None = None
    zone: str = "UTC"
    earliest_us: int = YEAR_1990_US


def time_of(cell: Any, rules: TimeRules, field: str) -> datetime | int | float | None:
    """A time as JSON has it: numbers and texts. Raises RecordError where it is none."""
    if cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)):
        return cell
    if not isinstance(cell, str):
        raise RecordError(DeadLetterCode.BAD_TIME, f"{_shown(cell)} is no time", field)
    text = cell.strip()
    if not text:
        return None
    try:
        if rules.format is not None:
            return datetime.strptime(text, rules.format)
        if _NUMBER.fullmatch(text):
            return float(text) if "." in text else int(text)
        return datetime.fromisoformat(text)
    except ValueError:
        what = "ISO 8601 nor a number since 1970" if rules.format is None else f"of the format {rules.format!r}"
        hint = "; set input.time_format for another one" if rules.format is None else ""
        neither = "neither " if rules.format is None else "not "
        raise RecordError(DeadLetterCode.BAD_TIME, f"{_shown(cell)} is {neither}{what}{hint}", field) from None


def microseconds(times: Sequence[Any], rules: TimeRules) -> npt.NDArray[np.float64]:
    """Of datetimes and numbers, (n,); NaN where there is none."""
    kinds = set(map(type, times))
    if kinds <= {int, float}:
        try:
            values = np.array(times, dtype=np.float64)
        except OverflowError:
            return np.array([_microsecond(time, rules) for time in times])
        if rules.unit != "auto":
            return values * _US_EACH[rules.unit]
        if not _compact(values).any():
            return values * _units(values)
    elif kinds == {datetime}:
        zones = set(map(operator.attrgetter("tzinfo"), times))
        if None not in zones:
            return np.array(list(map(datetime.timestamp, times))) * 1e6
        if zones == {None} and rules.zone == "UTC":
            return np.array(times, dtype="datetime64[us]").astype(np.int64).astype(np.float64)
    return np.array([_microsecond(time, rules) for time in times])


def _units(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Microseconds of each number's unit, (n,). IN values."""
    size = np.abs(values)
    return np.select([size >= least for least in _LEAST.values()], [_US_EACH[unit] for unit in _LEAST], 1.0)


def _compact(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which numbers may be compact dates. IN values."""
    dates = (values >= _DATES[0]) & (values <= _DATES[1])
    date_times: npt.NDArray[np.bool_] = (values >= _DATE_TIMES[0]) & (values <= _DATE_TIMES[1])
    return dates | date_times


def _microsecond(time: datetime | float | None, rules: TimeRules) -> float:
    if time is None:
        return math.nan
    if isinstance(time, datetime):
        # Less a few years than Python takes in some zones.
        return _timestamp(time if time.tzinfo else time.replace(tzinfo=_zone(rules.zone))) * 1e6
    try:
        value = float(time)
    except OverflowError:
        # An integer of 309 digits or more.
        return math.inf if time > 0 else -math.inf
    if rules.unit != "auto":
        return value * _US_EACH[rules.unit]
    array = np.array([value])
    if _compact(array)[0] and value == int(value):
        digits = str(int(value))
        try:
            found = datetime.strptime(digits, "%Y%m%d" if len(digits) == 8 else "%Y%m%d%H%M%S")
        except ValueError:
            return float(value * _units(array)[0])
        return _microsecond(found, rules)
    return float(value * _units(array)[0])


def _timestamp(time: datetime) -> float:
    try:
        return time.timestamp()
    except (OverflowError, ValueError):
        return math.inf


@lru_cache
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def plausible(exact: npt.NDArray[np.float64], now_us: int, rules: TimeRules) -> npt.NDArray[np.bool_]:
    """Which times, in microseconds, an event can have: not too early, and at most an hour ahead of the clock. IN exact."""
    return (exact >= max(rules.earliest_us, _FIRST_US)) & (exact <= now_us + MAX_AHEAD_US)


def time_error(exact: float, given: Any, field: str, rules: TimeRules) -> RecordError:
    """Why a time that is not plausible, in microseconds, cannot be an event's. `given`: as it was written."""
    if math.isnan(exact):
        return RecordError(DeadLetterCode.MISSING_TIME, f"neither the event's {field!r} nor its record has a time", field)
    shown = _shown(given)
    if not _FIRST_US <= exact <= _LAST_US:
        return RecordError(DeadLetterCode.BAD_TIME, f"{shown} is no time of the years 1 to 9999{_other_unit(rules)}", field)
    when = _date(exact)
    if exact < rules.earliest_us:
        message = f"{shown} would be {when}, before {_date(rules.earliest_us)} (input.earliest_time){_other_unit(rules)}"
        return RecordError(DeadLetterCode.IMPLAUSIBLE_TIME, message, field)
    message = f"{shown} would be {when}, over an hour ahead of the clock{_other_unit(rules)}"
    return RecordError(DeadLetterCode.FUTURE_TIME, message, field)


def _other_unit(rules: TimeRules) -> str:
    return "" if rules.unit == "auto" else f"; numbers are read in {rules.unit} (input.time_unit)"


def _date(exact: float) -> str:
    return datetime.fromtimestamp(math.floor(exact / 1e6), UTC).date().isoformat()


def _shown(given: Any) -> str:
    # Python refuses to write an integer of more than 4,300 digits.
    if isinstance(given, int) and abs(given) >= 10**30:
        return f"an integer of {given.bit_length()} bits"
    return repr(given)[:60] if isinstance(given, str | int | float) else str(given)[:60]

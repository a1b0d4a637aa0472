"""What is published: assignments, catalog records, dead letters."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from streamseg.formats.json_rows import times

SCHEMA_VERSION = 1


class Driver(msgspec.Struct, frozen=True, gc=False):
    feature: str
    z: float
    share: float


class Source(msgspec.Struct, frozen=True, gc=False):
    topic: str
    partition: int
    offset: int


class Assignment(msgspec.Struct, gc=False):
    """The output record. Times are ISO 8601 in UTC with microseconds. All fields are always there.

    This is what readers decode; batches are written column by column, in the order of these fields.
    """

    schema_version: int
    customer_id: str
    segment_id: int | None
    segment_name: str | None
    previous_segment_id: int | None
    change: str | None
    reason: str
    entered_at: str | None
    event_time: str | None
    assigned_at: str
    model_version: int
    distance: float | None
    runner_up_segment_id: int | None
    margin: float | None
    outlier: bool | None
    drivers: list[Driver] | None
    source: Source | None
    event_id: str | None = None


class SegmentRule(msgspec.Struct, frozen=True):
    """A segment in one line: how many that it holds for are of the segment (precision), and the other way round."""

    text: str
    precision: float
    coverage: float


class SegmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The catalog record of a segment. `center` is in the user's units, `z` in standard deviations of all customers.

    `previous_name`: the one before, where that no longer fitted its customers.

    `mean`: arithmetic means; of a feature that is a logarithm its center, a geometric one, is less. `ranges`: least, median
    and largest value among a sample of its customers.

    `drivers`: the three features that set it most apart from all customers; `share` of its center's squared distance.
    """

    schema_version: int = SCHEMA_VERSION
    segment_id: int
    name: str
    previous_name: str | None = None
    status: str
    predecessors: tuple[int, ...]
    successors: tuple[int, ...]
    why: str
    suggested_name: str | None
    rule: SegmentRule | None
    center: dict[str, float | None]
    z: dict[str, float]
    drivers: tuple[Driver, ...]
    size: int
    share: float
    radius_p50: float | None
    radius_p95: float | None
    model_version: int
    born_version: int
    updated_at: str
    mean: dict[str, float | None] = {}
    ranges: dict[str, tuple[float, float, float]] = {}


class DeadLetter(msgspec.Struct, frozen=True):
    """An input record that could not be used, whole (or, if too large, by reference), with the reason."""

    key: bytes | None
    value: bytes | None
    code: str
    message: str
    topic: str
    partition: int
    offset: int
    field: str
    timestamp_ms: int | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        at = [] if self.timestamp_ms is None else [("streamseg.error.timestamp", b"%d" % self.timestamp_ms)]
        return [
            ("streamseg.error.code", self.code.encode()),
            ("streamseg.error.message", self.message.encode()),
            ("streamseg.error.topic", self.topic.encode()),
            ("streamseg.error.partition", str(self.partition).encode()),
            ("streamseg.error.offset", str(self.offset).encode()),
            ("streamseg.error.field", self.field.encode()),
            *at,
        ]


class DeadLetterLine(msgspec.Struct, frozen=True):
    """A dead letter as a line of a file: bytes that are not UTF-8 are in base64."""

    code: str
    message: str
    topic: str
    partition: int
    offset: int
    field: str
    key: str | None
    value: str | None
    value_base64: bytes | None = None
    timestamp_ms: int | None = None


_ENCODER = msgspec.json.Encoder()


def encode_json(value: Any) -> bytes:
    return _ENCODER.encode(value)


def decode_assignment(value: bytes) -> Assignment:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(value, type=Assignment)


def decode_segment(value: bytes) -> SegmentRecord:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(value, type=SegmentRecord)


def dead_letter_line(letter: DeadLetter) -> bytes:
    key = None if letter.key is None else letter.key.decode(errors="replace")
    text, raw = None, None
    if letter.value is not None:
        try:
            text = letter.value.decode()
        except UnicodeDecodeError:
            raw = letter.value
    return encode_json(
        DeadLetterLine(
            letter.code,
            letter.message,
            letter.topic,
            letter.partition,
            letter.offset,
            letter.field,
            key,
            text,
            raw,
            letter.timestamp_ms,
        )
    )


def tombstone_line(customer_id: str) -> bytes:
    """An erased customer as a line of a file; in a topic it is a null value under the key."""
    return encode_json({"customer_id": customer_id, "erase": True})


def iso_time(time_us: int) -> str:
    """ISO 8601 in UTC with microseconds."""
    text: str = msgspec.json.decode(times(np.array([time_us]))[0])
    return text

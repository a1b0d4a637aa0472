"""The sections of the configuration: every key with its default, its bounds and what it means."""

from __future__ import annotations

import codecs
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from streamseg.config.base import Duration, Section
from streamseg.config.connections import RegistryConfig
from streamseg.core.customers.aggregates import AggregateName, Feature
from streamseg.core.model.spec import MAX_SEGMENTS, parse_duration
from streamseg.formats.cells import text_of
from streamseg.formats.envelopes import PresetName, envelope_of
from streamseg.formats.events import EventFields
from streamseg.formats.filters import Condition, Derived, Filter
from streamseg.formats.keys import KeyFormat
from streamseg.formats.times import TimeRules, TimeUnit
from streamseg.formats.wire import FormatName

Scalar = str | int | float | bool
Where = dict[str, Scalar | list[Scalar] | dict[Literal["exists"], bool]]


def filter_of(where: Where) -> Filter:
    """The conditions of a `where` table. Values are compared as texts, as events have them: 3 is "3", true is "true"."""
    conditions = []
    for field, wanted in where.items():
        if isinstance(wanted, dict):
            conditions.append(Condition(field))
        else:
            values = wanted if isinstance(wanted, list) else [wanted]
            conditions.append(Condition(field, tuple(str(text_of(value, field)) for value in values)))
    return Filter(tuple(conditions))


def _checked_where(where: Where) -> Where:
    """Raises ValueError."""
    for field, wanted in where.items():
        if not field:
            raise ValueError('where names a field of the event: { event = "Order Completed" }')
        if isinstance(wanted, dict) and wanted != {"exists": True}:
            raise ValueError(f"where takes a value, a list of values, or {{ exists = true }} for {field!r}")
        if isinstance(wanted, list) and not wanted:
            raise ValueError(f"where has no value for {field!r}, so no event would be meant")
    return where


WhereTable = Annotated[Where, AfterValidator(_checked_where)]


class InputConfig(Section):
    transport: Literal["embedded", "kafka"] = Field("embedded", description="where the events come from: files, or Kafka")
    path: str | None = Field(None, description="a .jsonl, .csv or .parquet file, or - for standard input")
    topic: str = Field("customer-events", description="Kafka: the topic; it is the input's name in `source`")
    start_at: Literal["earliest", "latest"] = Field("earliest", description="Kafka: where a new application begins")
    lost: Literal["stop", "skip"] = Field(
        "stop", description="if unread records were deleted, or a followed file is gone: stop, or go on behind"
    )
    customer_id: str = Field("customer_id", min_length=1, description="path of the customer's id in an event")
    event_time: str = Field("event_time", min_length=1, description="path of the event's time")
    where: WhereTable = Field(
        {}, description='only events that have these values, such as { type = ["order", "return"] }; others are dropped'
    )
    preset: PresetName = Field(
        "none",
        description="where the fields are in events of Segment, CloudEvents or Debezium: segment, cloudevents, debezium",
    )
    format: FormatName = Field(
        "auto",
        description="of Kafka's values: auto (JSON, or what the schema says that a value names), json, avro, protobuf",
    )
    registry: RegistryConfig | None = Field(None, description="the schema registry: its URL, or a table")
    key_format: KeyFormat = Field(
        "string",
        description="of keys of records without a value, that erase their customer: string, json, long, avro or none",
    )
    time_unit: TimeUnit = Field("auto", description='of times that are numbers since 1970; "auto": by their size')
    time_format: str | None = Field(
        None, min_length=1, description="of times that are texts, such as %d/%m/%Y %H:%M (strptime); default: ISO 8601"
    )
    time_zone: str = Field("UTC", min_length=1, description="of times that name none, such as Europe/Berlin")
    earliest_time: str = Field("1990-01-01", description="a record with an earlier time is a dead letter")
    encoding: str = Field("auto", min_length=1, description='of a CSV file; "auto": UTF-8 or UTF-16')
    delimiter: str = Field("auto", min_length=1, description='of a CSV file, one character; "auto": as its header has it')
    decimal: Literal["auto", ".", ","] = Field("auto", description="decimal sign in numbers of a CSV file")
    thousands: Literal["auto", "none", ",", ".", " ", "'"] = Field(
        "auto", description="sign between groups of three digits in numbers of a CSV file"
    )
    deduplicate: Literal["none"] | Duration = Field(
        "none",
        description="event time for which `event_id`s are remembered; a repeated event is dropped and counted",
    )
    follow: bool = Field(False, description="wait for more at the end of a file, as `tail -F` does; flag `--follow`")
    stop_when_all_fail: bool = Field(
        False, description="end the run when of the first 1,000 records 99 % are dead letters; else it is reported once"
    )
    batch_records: int = Field(5000, ge=1, le=100_000, description="records in a micro-batch, at most")
    max_record_bytes: int = Field(1_000_000, ge=100, description="larger records are dead letters")

    @field_validator("registry", mode="before")
    @classmethod
    def _from_a_url(cls, given: Any) -> Any:
        return {"url": given} if isinstance(given, str) else given

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        """Raises ValueError."""
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"there is no time zone {name!r}; names are those of IANA, such as Europe/Berlin") from None
        return name

    @field_validator("earliest_time")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        """Raises ValueError."""
        datetime.fromisoformat(text)
        return text

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        """Raises ValueError."""
        try:
            return name if name == "auto" else codecs.lookup(name).name
        except LookupError:
            raise ValueError(f"Python knows no encoding {name!r}; for Western European exports it is often cp1252") from None

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, sign: str) -> str:
        """Raises ValueError."""
        sign = {"tab": "\t", "\\t": "\t"}.get(sign, sign)
        if sign != "auto" and (len(sign) != 1 or sign in '"\r\n'):
            raise ValueError(f'a delimiter is one character, or "tab", not {sign!r}')
        return sign

    @property
    def deduplicate_us(self) -> int | None:
        return None if self.deduplicate == "none" else round(parse_duration(self.deduplicate) * 1e6)

    def times(self) -> TimeRules:
        """How event times are read."""
        earliest = datetime.fromisoformat(self.earliest_time)
        earliest = earliest if earliest.tzinfo else earliest.replace(tzinfo=UTC)
        return TimeRules(self.time_unit, self.time_format, self.time_zone, round(earliest.timestamp() * 1e6))


# What of `input` the meaning of a record depends on.
READING = (
    "customer_id", "event_time", "where", "preset", "format", "key_format", "time_unit", "time_format", "time_zone",
    "earliest_time", "encoding", "delimiter", "decimal", "thousands", "topic", "max_record_bytes", "deduplicate",
)  # fmt: skip


class OutputConfig(Section):
    path: str | None = Field(None, description="a file, or - for standard output; dead letters go beside it")
    mode: str = Field(
        "0600", pattern=r"^0?[0-7]{3}$", description="permissions of an output file that is made, and of its dead letters"
    )
    topic: str = Field("customer-segments", description="assignments")
    catalog_topic: str = Field("segments", description="what the segments are")
    dead_letter_topic: str = Field("customer-events-dead-letters", description="records that could not be used")
    format: Literal["json", "avro"] = Field(
        "json", description="of tags on Kafka; avro: with a schema of the registry input.registry"
    )
    emit: Literal["every", "changes"] = Field("every", description="a record for every event, or only for changes")
    delivery: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once", description="Kafka: of tags and dead letters; state is always exactly once"
    )

    @field_validator("path")
    @classmethod
    def _json_lines(cls, path: str | None) -> str | None:
        """Raises ValueError."""
        ending = "" if path is None else PurePath(path).suffix.lower()
        if ending in (".csv", ".parquet"):
            raise ValueError(f"tags are written as JSON lines, not as {ending[1:]}: end {path!r} in .jsonl")
        return path


def written_schemas(given: InputConfig, output: OutputConfig) -> dict[str, bytes]:
    """By subject, the Avro schemas of the tags' keys and values; none where they are JSON. Raises ValueError."""
    if output.format == "json":
        return {}
    if given.transport != "kafka":
        raise ValueError('output.format "avro" is for topics: set input.transport = "kafka", or leave output.format out')
    if given.registry is None:
        raise ValueError('output.format "avro" needs a schema registry: set input.registry to its URL')
    try:
        from streamseg.formats.avro_tags import written_under
    except ImportError:
        raise ValueError('output.format "avro" takes more packages: pip install "streamseg[registry]"') from None
    return written_under(output.topic)


class FeatureConfig(Section):
    name: str = Field(min_length=1, description="its name in drivers, profiles and models")
    field: str | None = Field(None, min_length=1, description="path in the event; default: the name")
    aggregate: AggregateName = Field("last", description="over the customer's events")
    half_life: Duration | None = Field(None, description="event time after which an event counts half")
    transform: Literal["none", "log1p"] = Field("none", description="signed, so refunds may be negative")
    weight: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="in the distance; 0: for profiles only")
    one_hot: tuple[str, ...] | None = Field(None, description="the categories of a text field")
    where: WhereTable = Field(
        {},
        description='only events with these values, such as { event = "Order Completed" }; a list; or { exists = true }',
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.half_life is not None and self.aggregate in ("last", "max", "recency"):
            raise ValueError(f"half_life makes no sense with aggregate {self.aggregate!r}: there is nothing that fades")
        if self.one_hot is not None:
            if self.aggregate != "last" or self.transform != "none":
                raise ValueError("one_hot goes with aggregate 'last' and without transform")
            if len(self.one_hot) < 2 or len(set(self.one_hot)) != len(self.one_hot):
                raise ValueError("one_hot needs at least two categories, all different")
        return self

    def feature(self) -> Feature:
        return Feature(
            name=self.name,
            field=self.column,
            aggregate=self.aggregate,
            half_life_s=parse_duration(self.half_life) if self.half_life else None,
            transform=self.transform,
            weight=self.weight,
            categories=self.one_hot or (),
            every_event=self.counts_events and not self.where,
        )

    @property
    def counts_events(self) -> bool:
        """Whether each event counts, whatever fields it has."""
        return self.field is None and self.aggregate in ("count", "gap", "recency")

    @property
    def column(self) -> str:
        """Of the decoded events: the field, or what a filter leaves of it."""
        return f"{self.name}, of some events" if self.where else self.field or self.name

    def derived(self) -> Derived:
        """The column of a feature that has a filter."""
        field = None if self.counts_events else self.field or self.name
        return Derived(self.column, field, filter_of(self.where), self.one_hot is not None)


def event_fields(given: InputConfig, features: tuple[FeatureConfig, ...]) -> EventFields:
    """What is read of an event."""
    numbers = [one.field or one.name for one in features if one.one_hot is None and not one.counts_events]
    texts = [one.field or one.name for one in features if one.one_hot is not None]
    asked = {*given.where, *(field for one in features for field in one.where)}
    return EventFields(
        given.customer_id,
        given.event_time,
        tuple(dict.fromkeys(numbers)),
        tuple(dict.fromkeys(texts)),
        given.times(),
        filter_of(given.where),
        tuple(one.derived() for one in features if one.where),
        given.key_format,
        envelope_of(given.preset, given.customer_id, given.event_time)._replace(literal=frozenset(asked)),
        given.format,
    )


class ModelConfig(Section):
    segments: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_SEGMENTS)] = Field(
        "auto", description='a number; "auto": as many as there are natural gaps for, and new ones when they appear'
    )
    scaling: Literal["standard", "none"] = Field(
        "standard", description="distances in standard deviations of each feature, or in the features' own units"
    )
    warm_up: int = Field(1000, ge=1, description="complete customers before the first segments")
    active_within: Literal["auto", "none"] | Duration = Field(
        "auto", description="event time after which a silent customer keeps its tag, but no longer counts"
    )
    retag_every: Literal["auto", "none"] | Duration = Field(
        "auto",
        description=(
            'event time after which silent customers are tagged again; "auto": a sixth of the shortest half-life, and at '
            "most a day where recency counts"
        ),
    )
    refits: Literal["auto"] | bool = Field(
        "auto", description='look for better centers as events come; "auto": yes, but for a factory\'s model'
    )
    factory: str | None = Field(
        None, pattern=r"^[\w.]+:\w+$", description='"package.module:function": makes a river clusterer to use instead'
    )
    stickiness: float = Field(0.05, ge=0.0, lt=1.0, description="margin by which another segment must be nearer to move")
    seed: int = Field(0, ge=0, lt=2**32, description="of the first centers")
    start: str | None = Field(None, description="a model file to start from, instead of a warm-up")
    max_ahead: Duration | Literal["none"] = Field("1h", description="guard: a lone time so far ahead is held back")

    @model_validator(mode="after")
    def _external(self) -> Self:
        if self.factory is not None:
            for key in ("segments", "start", "refits"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is for the built-in model, factory's decides by itself: leave {key} out")
        return self


# Keys that were taken out: why, and what is there instead.
REMOVED = {
    "model.half_life": "each customer counts once, as it is now, so the model needs no decay; model.active_within excludes "
    "customers that were silent for longer, and the half_life of a feature makes what a customer did fade",
    "model.customer_half_life": "each customer counts once, however many events it has",
    "model.max_gain": "a center is the mean of its customers, so no event can move it farther than its customer's share",
    "model.clip_sigmas": "a customer more than 30 deviations off is tagged and flagged, and not counted in any center",
    "model.retire_after": "a segment without customers is used for others by the next refit; model.active_within says "
    "when a silent customer stops counting",
}


class EmbeddedConfig(Section):
    path: str = Field("streamseg.db", description="the state file")


class WorkerConfig(Section):
    id: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Kafka: stable; default: the first free slot of this host"
    )


class MetricsConfig(Section):
    port: int = Field(9108, ge=0, le=65535, description="of /metrics, /livez, /readyz and /status; 0: none")
    address: str = Field("127.0.0.1", min_length=1, description="to serve them on; 0.0.0.0: all of this machine's")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='host names that it may be asked for by, beside its address and this machine\'s; "*": any, which lets '
        "web pages read it",
    )
    reference: str | None = Field(
        None, description="a table of customers (.csv, .parquet, .jsonl) to measure drift against; default: the first ones"
    )
    drift_every: Duration = Field("5s", description="how often drift is measured")
    drift_horizon: Duration = Field(
        "30d", description="of counts and sums, what customers gained in the last one is compared with the one before"
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _from_a_text(cls, given: Any) -> Any:
        """As a variable has them: with commas between."""
        return tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given


class TracingConfig(Section):
    enabled: bool = Field(False, description="spans of each batch, through OpenTelemetry and its OTEL_* variables")

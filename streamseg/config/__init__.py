"""The configuration: one frozen tree from defaults, `streamseg.toml`, `STREAMSEG_*` environment and flags, in rising order.

`load` remembers for every key which of them won.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
from msgspec.structs import replace
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from streamseg.config.base import Section
from streamseg.config.connections import KafkaConfig
from streamseg.config.errors import explained
from streamseg.config.sections import (
    READING,
    EmbeddedConfig,
    FeatureConfig,
    InputConfig,
    MetricsConfig,
    ModelConfig,
    OutputConfig,
    TracingConfig,
    WorkerConfig,
    event_fields,
    written_schemas,
)
from streamseg.core.customers.feature_layout import Layout
from streamseg.core.model.external import factory, hashes_are_fixed
from streamseg.core.model.spec import (
    MAX_FEATURES,
    WARM_UP_SECONDS,
    ModelFeature,
    ModelSpec,
    parse_duration,
)
from streamseg.engine.settings import JobSettings
from streamseg.errors import ConfigError
from streamseg.formats.events import EventDecoder, EventFields

DEFAULT_FILE = Path("streamseg.toml")
_ENV_PREFIX = "STREAMSEG_"
_AUTO_RETAG_SHARE, _DAY_S = 6.0, 86_400.0
_GIVEN = ("flag", "environment")  # not in a file, which may be of another run


class Config(Section):
    """All settings. What is left out has a default that works."""

    application: str = Field("streamseg", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="names the internal logs")
    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    features: tuple[FeatureConfig, ...] = Field(
        (FeatureConfig(name="age"), FeatureConfig(name="income"), FeatureConfig(name="purchases")),
        min_length=1,
        max_length=MAX_FEATURES,
        description="what a customer is made of",
    )
    model: ModelConfig = ModelConfig()
    embedded: EmbeddedConfig = EmbeddedConfig()
    worker: WorkerConfig = WorkerConfig()
    kafka: KafkaConfig = KafkaConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"features: {twice!r} is there twice")
        reserved = {self.input.customer_id, self.input.event_time, "erase", "event_id"}
        for feature in self.features:
            if (feature.field or feature.name) in reserved and not feature.feature().every_event:
                raise ValueError(f"features: {feature.field or feature.name!r} is not a field for a feature")
        self._check_paths()
        written_schemas(self.input, self.output)
        try:
            self.model_spec().check()
        except ValueError as error:
            raise ValueError(_in_keys(str(error))) from None
        return self

    def _check_paths(self) -> None:
        """A field is one number or one text, and holds no other field. Raises ValueError."""
        fields = self.event_fields()
        both = set(fields.numbers) & set(fields.columns)
        if both:
            raise ValueError(f"features: the field {min(both)!r} is a number for one and a text for another, or for `where`")
        for name in {fields.customer_id, fields.event_time, "erase", "event_id"} & {*fields.columns}:
            raise ValueError(f"where: {name!r} is in every event; other fields say what it is about")
        names = {*fields.numbers, *fields.columns, fields.customer_id, fields.event_time}
        paths = {path for name in names for path in fields.envelope.paths(name)}
        for path in paths:
            inside = [other for other in paths if other.startswith(path + ".")]
            if inside:
                raise ValueError(f"the field {path!r} cannot be a value and also hold {min(inside)!r}")
        EventDecoder(fields)

    def layout(self) -> Layout:
        features, period = tuple(feature.feature() for feature in self.features), self.retag_every_s()
        period_us = 0 if period is None else round(period * 1e6)
        return Layout(tuple(replace(one, period_us=period_us) if one.aggregate == "recency" else one for one in features))

    def model_spec(self) -> ModelSpec:
        """What the model is told. A start from a file says how many segments there are."""
        layout, model = self.layout(), self.model
        features = [(row, layout.features[row.feature]) for row in layout.rows]
        return ModelSpec(
            tuple(
                ModelFeature(
                    row.name,
                    row.weight,
                    row.group,
                    feature.transform,
                    half_life_s=feature.half_life_s if feature.fades else None,
                    per_day=1.0 if feature.aggregate == "recency" else 0.0,
                    accumulates=feature.aggregate in ("count", "sum"),
                )
                for row, feature in features
            ),
            None if model.segments == "auto" else model.segments,
            warm_up=max(model.warm_up, 1),
            seed=model.seed,
            max_ahead=None if model.max_ahead == "none" else parse_duration(model.max_ahead),
            max_warm_up_s=WARM_UP_SECONDS,
            refits=model.factory is None if model.refits == "auto" else model.refits,
            table=True,
            unit_metric=model.scaling == "none",
            active_within=None if model.active_within in ("auto", "none") else parse_duration(model.active_within),
            stickiness=model.stickiness if model.factory is None else 0.0,
            watched=True,
            drift_horizon_s=parse_duration(self.metrics.drift_horizon),
            make=None if model.factory is None else factory(model.factory, [row.name for row in layout.rows if row.weight]),
        )

    def retag_every_s(self) -> float | None:
        if self.model.retag_every == "none":
            return None
        if self.model.retag_every != "auto":
            return parse_duration(self.model.retag_every)
        fading = [found for feature in self.features if (found := feature.feature()).fades]
        spans = [feature.half_life_s / _AUTO_RETAG_SHARE for feature in fading if feature.half_life_s is not None]
        if any(feature.aggregate == "recency" for feature in fading):
            spans.append(_DAY_S)
        if self.model.active_within not in ("auto", "none"):
            spans.append(parse_duration(self.model.active_within) / _AUTO_RETAG_SHARE)
        return min(spans, default=None)

    def job_settings(self) -> JobSettings:
        """Raises ConfigError where a model of somebody else's would come out differently in every process."""
        if self.model.factory is not None and not hashes_are_fixed():
            raise ConfigError(
                "with model.factory, hashes of texts must be the same in every process",
                where="model.factory",
                hint="start Python with PYTHONHASHSEED=0; `streamseg` does so itself",
            )
        layout, spec = self.layout(), self.model_spec()
        return JobSettings(
            application=self.application,
            config=self._semantics(),
            layout=layout,
            model=spec,
            fields=self.event_fields(),
            topic=self.input.topic,
            retag_every_s=self.retag_every_s(),
            emit=self.output.emit,
            max_record_bytes=self.input.max_record_bytes,
            deduplicate_us=self.input.deduplicate_us,
            written=written_schemas(self.input, self.output),
        )

    def event_fields(self) -> EventFields:
        """What is read of an event."""
        return event_fields(self.input, self.features)

    def _semantics(self) -> str:
        """Canonical JSON of every key that a tag depends on, dotted."""
        tree = self.model_dump(mode="json")
        keys = {f"model.{key}": value for key, value in tree["model"].items() if key != "start"}
        keys |= {f"features.{f['name']}.{key}": v for f in tree["features"] for key, v in f.items() if key != "name"}
        keys["features"] = [f["name"] for f in tree["features"]]
        keys |= {f"input.{key}": tree["input"][key] for key in READING}
        keys["output.emit"] = tree["output"]["emit"]
        keys["output.format"] = tree["output"]["format"]
        keys["metrics.drift_horizon"] = tree["metrics"]["drift_horizon"]
        keys["application"] = self.application
        return msgspec.json.encode(dict(sorted(keys.items()))).decode()


class Loaded(NamedTuple):
    """The configuration, and for each dotted key where its value is from: default, file, environment or flag."""

    config: Config
    origins: dict[str, str]


def load(file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Loaded:
    """`flags`: dotted keys to values, None for not given. Raises ConfigError naming key, origin and what to do.

    Without `file` a `streamseg.toml` in the working directory is read, if there is one.
    """
    layers = [
        (str(file or DEFAULT_FILE), _from_file(file)),
        ("environment", _from_environment(environ)),
        ("flag", _nested({key: value for key, value in flags.items() if value is not None})),
    ]
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        _merge(merged, layer, origin, origins)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise explained(error, origins, Config) from None
    for key in flat_keys(config):
        origins.setdefault(key, "default")
    return Loaded(config, origins)


def as_written(loaded: Loaded, written: str) -> Config:
    """What is not said is as a state has it. `written`: of SettingsError."""
    semantics, tree = json.loads(written), loaded.config.model_dump()
    for key, value in semantics.items():
        section, _, name = key.partition(".")
        if section in ("input", "model", "output", "metrics") and loaded.origins.get(key) not in _GIVEN:
            tree[section][name] = value
    if loaded.origins.get("features") not in _GIVEN:
        tree["features"] = [
            {"name": name}
            | {key: semantics[f"features.{name}.{key}"] for key in FeatureConfig.model_fields.keys() - {"name"}}
            for name in semantics["features"]
        ]
    return Config.model_validate(tree)


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` of --set; the value is read as TOML where it is, else as text. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, not {text!r}", hint="for example --set model.segments=5")
    try:
        return key.strip(), tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def flat_keys(config: Config) -> dict[str, Any]:
    """Dotted keys to values; features are one key."""
    tree = config.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    if not path.exists():
        if file is not None:
            raise ConfigError(f"there is no configuration file {str(file)!r}", hint="`streamseg init` writes one")
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration is not TOML: {error}", where=str(path), hint="`streamseg init` writes one to start from"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error}", where=str(path)) from None


class _Environment(BaseSettings):
    model_config = {"env_prefix": _ENV_PREFIX, "env_nested_delimiter": "__", "extra": "allow"}
    application: str = ""
    input: dict[str, Any] = {}
    output: dict[str, Any] = {}
    features: list[dict[str, Any]] = []
    model: dict[str, Any] = {}
    embedded: dict[str, Any] = {}
    worker: dict[str, Any] = {}
    kafka: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    tracing: dict[str, Any] = {}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Variables STREAMSEG_SECTION__KEY; STREAMSEG_FEATURES is a JSON array."""
    ours = {name: value for name, value in environ.items() if name.upper().startswith(_ENV_PREFIX)}
    known = {field.upper() for field in Config.model_fields}
    layer: dict[str, Any] = {}
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): value for name, value in ours.items()}
    for name in ours:
        section = name.upper().removeprefix(_ENV_PREFIX).split("__")[0]
        if section not in known and section != "TEST_KAFKA":
            raise ConfigError(
                f"unknown environment variable {name}",
                hint=f"keys are {_ENV_PREFIX}SECTION__KEY; see `streamseg config show`",
            )
    try:
        layer = source()
    except SettingsError as error:
        raise ConfigError(f"cannot read the environment: {error}", hint="STREAMSEG_FEATURES takes a JSON array") from None
    return layer


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def _merge(into: dict[str, Any], layer: Mapping[str, Any], origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, origin, origins, f"{prefix}{key}.")
        else:
            into[key] = value
            origins[f"{prefix}{key}"] = origin


def _in_keys(text: str) -> str:
    """What the model says of its own settings, in the words of the configuration."""
    text = re.sub(r"\bn_segments\b", "segments", text)
    keys = "|".join(ModelConfig.model_fields)
    return re.sub(rf"(?<![\w.])({keys})\b(?= |$|,)", r"model.\1", text).replace("or None", 'or "none"')

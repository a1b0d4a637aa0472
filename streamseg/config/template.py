"""The commented `streamseg.toml` that `init` writes, made from the configuration's own fields."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from streamseg.config import Config
from streamseg.config.sections import FeatureConfig

Template = Literal["default", "rfm"]
SCHEMA_FILE = "streamseg.schema.json"


def render_schema() -> str:
    """JSON Schema of the configuration, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def render_template(template: Template = "default") -> str:
    """Every key with its default and what it means; keys without a default are commented out.

    "rfm": the features are recency, frequency and monetary value of purchases.
    """
    lines = [
        f"#:schema ./{SCHEMA_FILE}",
        "# What is left out has the default shown. Flags and STREAMSEG_* variables win.",
        "",
    ]
    sections: list[str] = []
    for name, field in Config.model_fields.items():
        if name == "features":
            sections += _rfm() if template == "rfm" else _features()
        elif isinstance(field.default, BaseModel):
            sections += ["", f"[{name}]", *_keys(field.default)]
        else:
            lines += [_line(name, field.default, field.description or "")]
    return "\n".join([*lines, *sections]) + "\n"


def _features() -> list[str]:
    lines: list[str] = []
    for feature in Config().features:
        lines += ["", "[[features]]", f'name = "{feature.name}"']
        if feature.name == "age":
            for name, field in FeatureConfig.model_fields.items():
                if name != "name":
                    value = _EXAMPLES.get(name, field.default)
                    lines.append(_line(name, value, field.description or "", commented=True))
    return lines


def _rfm() -> list[str]:
    """Each customer's days since the last purchase, number of purchases, and sum of their amounts."""
    lines = [
        "",
        "# Recency, frequency, monetary value: skewed, as purchases are, so they count by their logarithms.",
    ]
    for feature, what in _RFM:
        lines += ["", f"# {what}", "[[features]]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in feature.model_dump(exclude_defaults=True).items()]
    return lines


_RFM = (
    (FeatureConfig(name="recency", aggregate="recency", transform="log1p"), "Days since the last purchase."),
    (FeatureConfig(name="frequency", aggregate="count", transform="log1p"), "Purchases."),
    (
        FeatureConfig(name="monetary", field="amount", aggregate="sum", transform="log1p"),
        'Sum of their amounts: `field` is the amount of one purchase. With half_life = "365d" old ones fade.',
    ),
)
_EXAMPLES: dict[str, Any] = {"field": "age", "half_life": "90d", "one_hot": ["basic", "gold"]}


def _keys(section: BaseModel) -> list[str]:
    return [
        _line(name, getattr(section, name), field.description or "") for name, field in type(section).model_fields.items()
    ]


def _line(name: str, value: Any, description: str, *, commented: bool = False) -> str:
    text = '""' if value is None else json.dumps(value)
    code = f"{'# ' if commented or value is None else ''}{name} = {text}"
    return f"{code:<44} # {description}" if description else code

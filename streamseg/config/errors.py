"""What a person is told of a configuration that does not hold."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError

from streamseg.config.sections import REMOVED, FeatureConfig
from streamseg.errors import ConfigError

# Of pydantic's errors, those whose words are not for who writes a configuration.
_IN_WORDS = {
    "missing": "is missing",
    "tuple_type": 'a list is needed, such as [{name = "age"}]',
    "model_type": 'a table is needed, such as {name = "age"}',
    "model_attributes_type": 'a table is needed, such as {name = "age"}',
    "string_type": 'a text is needed, in quotes ("90d")',
}


def explained(error: ValidationError, origins: Mapping[str, str], root: type[BaseModel]) -> ConfigError:
    """The error of a person's words. `root`: the class of the whole configuration; `origins`: as in `Loaded`."""
    # A key that is not known tells more than one that lacks for it, and of a value that may be one of several kinds the
    # error about its kind more than that about a fixed word.
    first = min(
        error.errors(),
        key=lambda one: (one["type"] != "extra_forbidden", one["type"] == "too_short", one["type"] == "literal_error"),
    )
    path = [str(part) for part in first["loc"] if not re.match(r"^(literal|constrained|function|float|int|str)", str(part))]
    key = ".".join(path)
    origin = next((origins[known] for known in sorted(origins, reverse=True) if _within(key, known)), "")
    if first["type"] == "extra_forbidden":
        if key in REMOVED:
            return ConfigError(f"{key} is no key any more: {REMOVED[key]}", where=origin, hint=f"leave {key} out")
        names = sorted(_section_of(root, path).model_fields)
        near = difflib.get_close_matches(path[-1].lower(), names, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return ConfigError(f"unknown key {key!r}", where=origin, hint=f"{meant}known there: {', '.join(names)}")
    message = _IN_WORDS.get(first["type"]) or re.sub(r"^Value error, ", "", first["msg"])
    hidden = first["type"] in ("value_error", "missing") or isinstance(first["input"], dict) or path[-1:] == ["password"]
    value = "" if hidden else f" (it is {first['input']!r})"
    return ConfigError(f"{key}: {message}{value}" if key else message, where=origin, hint=_meaning(root, path))


def _within(key: str, known: str) -> bool:
    """Whether one of two dotted keys is the other, or holds it."""
    return f"{key}.".startswith(f"{known}.") or f"{known}.".startswith(f"{key}.")


def _section_of(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The section that a key is in; that of the known part, where it is not known."""
    section = root
    for name in path[:-1]:
        if name.isdigit():
            section = FeatureConfig
        elif name in section.model_fields:
            annotation = section.model_fields[name].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
    return section


def _meaning(root: type[BaseModel], path: Sequence[str]) -> str:
    """What a key is for, as its hint."""
    field = _section_of(root, path).model_fields.get(path[-1]) if path else None
    if field is None or not field.description:
        return "`streamseg config show --origin` lists all keys, and where each is from"
    return f"{path[-1]}: {field.description}"

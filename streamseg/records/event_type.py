"""The class that an event is decoded into, made from the configured fields."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec


def event_type(kinds: dict[str, Any]) -> tuple[type[Any], list[Callable[[Any], Any]]]:
    """A Struct with the fields of dotted paths, and for each path a function that reads it."""
    tree: dict[str, Any] = {}
    for path, kind in kinds.items():
        node = tree
        *parents, leaf = path.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = kind
    places: dict[str, tuple[str, ...]] = {}
    event = _struct_of(tree, "Event", (), (), places)
    paths = [places[path] for path in kinds]
    return event, [operator.attrgetter(*path) if len(path) == 1 else partial(_follow, path) for path in paths]


def _struct_of(
    tree: dict[str, Any], name: str, path: tuple[str, ...], attributes: tuple[str, ...], places: dict[str, tuple[str, ...]]
) -> type[Any]:
    fields, rename = [], {}
    for i, (key, kind) in enumerate(tree.items()):
        attribute = f"f{i}"
        rename[attribute] = key
        if isinstance(kind, dict):
            nested = _struct_of(kind, f"{name}_{i}", (*path, key), (*attributes, attribute), places)
            fields.append((attribute, nested | None, None))
        else:
            fields.append((attribute, kind, None))
            places[".".join((*path, key))] = (*attributes, attribute)
    return msgspec.defstruct(name, fields, rename=rename, gc=False)


def _follow(path: tuple[str, ...], value: Any) -> Any:
    for attribute in path:
        if value is None:
            return None
        value = getattr(value, attribute)
    return value

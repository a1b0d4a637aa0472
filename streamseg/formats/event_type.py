"""The class that an event is decoded into, made from the configured fields."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import msgspec

from streamseg.errors import DeadLetterCode, RecordError

Reader = Callable[[Any], Any]


def event_type(kinds: dict[str, Any], *, lenient: bool = False) -> tuple[type[Any], list[Reader]]:
    """A Struct with the fields of dotted paths, and for each path a function that reads it.

    A field that is literally named `traits.age` is found before the dot is read as nesting. `lenient`: an empty array may
    stand for an empty object, as some languages write it.
    """
    tree: dict[str, Any] = {}
    for path, kind in kinds.items():
        node = tree
        *parents, leaf = path.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = kind
    places: dict[str, tuple[str, ...]] = {}
    literal = {path: kind for path, kind in kinds.items() if "." in path}
    event = _struct_of(tree, literal, "Event", (), (), places, lenient=lenient)
    readers: list[Reader] = []
    for path in kinds:
        steps = places[path]
        readers.append(operator.attrgetter(*steps) if len(steps) == 1 else _nested(path, places["\0" + path][0], steps))
    return event, readers


def _struct_of(
    tree: dict[str, Any], literal: dict[str, Any], name: str, path: tuple[str, ...], attributes: tuple[str, ...],
    places: dict[str, tuple[str, ...]], *, lenient: bool,
) -> type[Any]:  # fmt: skip
    fields, rename = [], {}
    for i, (key, kind) in enumerate([*tree.items(), *literal.items()]):
        attribute = f"f{i}"
        rename[attribute] = key
        if i >= len(tree):
            fields.append((attribute, kind, None))
            places["\0" + key] = (attribute,)
        elif isinstance(kind, dict):
            nested = _struct_of(kind, {}, f"{name}_{i}", (*path, key), (*attributes, attribute), places, lenient=lenient)
            fields.append((attribute, nested | list[Any] | None if lenient else nested | None, None))
        else:
            fields.append((attribute, kind, None))
            places[".".join((*path, key))] = (*attributes, attribute)
    return msgspec.defstruct(name, fields, rename=rename, gc=False)


def _nested(path: str, literal: str, attributes: tuple[str, ...]) -> Reader:
    names = path.split(".")

    def read(value: Any) -> Any:
        """Raises RecordError where an array that is not empty stands for an object."""
        found = getattr(value, literal)
        if found is not None:
            return found
        for i, attribute in enumerate(attributes):
            if value is None:
                return None
            if isinstance(value, list):
                if value:
                    raise RecordError(DeadLetterCode.WRONG_TYPE, "expected an object, got an array", ".".join(names[:i]))
                return None
            value = getattr(value, attribute)
        return value

    return read

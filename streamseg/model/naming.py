"""Names in words, from what sets a segment apart."""

from __future__ import annotations

import re

import numpy as np

from streamseg.kernel.types import Array

# Standard deviations from the mean of all customers at which a word changes.
_QUIET, _SLIGHT, _STRONG = 0.25, 0.5, 1.25
# ... and how far beyond that a word that was given is kept.
_SLACK = 0.1
_WORDS = re.compile(r"(?:(?P<how>very|slightly) )?(?P<way>high|low) (?P<feature>.+)")


def names_of(z: Array, features: list[str]) -> list[str]:
    """A distinct name for each segment: its two strongest features, such as "High income, low purchases".

    IN z (n_features, k): how many standard deviations each center lies above the mean of all customers. Names that say the
    same in another order count as equal; where two segments would share one, levels are told ("very", "slightly"), then
    further features, then a number.
    """
    k = z.shape[1]
    for depth, detailed in [(2, False), (2, True), (3, True), (len(features), True)]:
        words = [_words(z[:, i], features, depth, detailed) for i in range(k)]
        if len({frozenset(told) for told in words}) == k:
            break
    names = [_sentence(told) for told in words]
    return [name if names.index(name) == i else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def says_the_same(one: str, other: str) -> bool:
    """Whether two names tell the same features as high or low, however strongly and in whatever order."""
    return _told(one) == _told(other)


def _told(name: str) -> set[str]:
    bare = re.sub(r"\b(very|slightly) |\s*\(\d+\)$", "", name.lower())
    return {part.strip() for part in bare.split(",")}


def contradicts(name: str, z: Array, features: list[str]) -> bool:
    """Whether a name that was made of words says what is not so of a segment. IN z (n_features,), as in `names_of`.

    A word is kept somewhat beyond the threshold at which it is assigned. A name of other words contradicts nothing.
    """
    by_feature = {feature.replace("_", " "): float(value) for feature, value in zip(features, z, strict=True)}
    for part in re.sub(r"\s*\(\d+\)$", "", name).lower().split(", "):
        if part == "average":
            if max(map(abs, by_feature.values())) > _SLIGHT:
                return True
            continue
        found = _WORDS.fullmatch(part)
        if found is None:
            return False
        lowered = {feature.lower(): value for feature, value in by_feature.items()}
        if found["feature"] not in lowered:
            return False
        value = lowered[found["feature"]] * (1.0 if found["way"] == "high" else -1.0)
        least = _STRONG - _SLACK if found["how"] == "very" else _QUIET - _SLACK
        most = _SLIGHT + _SLACK if found["how"] == "slightly" else np.inf
        if not least <= value <= most:
            return True
    return False


def name_beside(z: Array, i: int, features: list[str], taken: list[str]) -> str:
    """A name for segment `i` among others that differs from those that are `taken`. IN z (n_features, k)."""
    for depth, detailed in [(2, False), (2, True), (3, True), (len(features), True)]:
        name = _sentence(_words(z[:, i], features, depth, detailed))
        if name not in taken:
            return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def _words(z: Array, features: list[str], depth: int, detailed: bool) -> list[str]:
    strongest = [int(j) for j in np.argsort(-np.abs(z), kind="stable")[:depth] if abs(z[j]) >= _QUIET]
    return [f"{_level(float(z[j]), detailed)} {features[j].replace('_', ' ')}" for j in strongest] or ["average"]


def _sentence(words: list[str]) -> str:
    text = ", ".join(words)
    return text[0].upper() + text[1:]


def _level(z: float, detailed: bool) -> str:
    level = "high" if z > 0 else "low"
    if detailed and abs(z) >= _STRONG:
        return f"very {level}"
    if detailed and abs(z) < _SLIGHT:
        return f"slightly {level}"
    return level

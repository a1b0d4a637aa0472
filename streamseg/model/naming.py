"""Names in words, from what sets a segment apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np

from streamseg.kernel.types import Array

# Standard deviations from the mean of all customers at which a word changes. Below half of one a segment is called average:
# of skewed features its arithmetic mean may well lie on the other side of that of all.
_QUIET, _SLIGHT, _STRONG = 0.25, 0.5, 1.25
# ... and how far beyond that a word that was given is kept.
_SLACK = 0.1
# A feature that is by so much stronger than those of a name is missing in it.
_LEFT_OUT = 0.3
_NUMBER = re.compile(r"\s*\(\d+\)$")
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


def outdated(name: str, z: Array, features: list[str], others: Collection[str] = ()) -> bool:
    """Whether a name that was made of words no longer fits a segment. IN z (n_features,), as in `names_of`; other names.

    It is false, omits the strongest feature, or has a number although no other segment has the bare name. A word is kept
    somewhat beyond the threshold at which it is assigned. A name of other words is never outdated.
    """
    by_feature = {feature.replace("_", " ").lower(): float(value) for feature, value in zip(features, z, strict=True)}
    bare = _NUMBER.sub("", name)
    found = [_WORDS.fullmatch(part) for part in bare.lower().split(", ")]
    if bare.lower() == "average":
        words = []
    elif all(word is not None and word["feature"] in by_feature for word in found):
        words = [word for word in found if word is not None]
    else:
        return False
    told = max((abs(by_feature[word["feature"]]) for word in words), default=_SLIGHT - _LEFT_OUT)
    if any(not _fits(word, by_feature) for word in words) or max(map(abs, by_feature.values())) > told + _LEFT_OUT:
        return True
    return bare != name and bare not in others


def _fits(word: re.Match[str], by_feature: Mapping[str, float]) -> bool:
    value = by_feature[word["feature"]] * (1.0 if word["way"] == "high" else -1.0)
    least = {"very": _STRONG, "slightly": _QUIET}.get(word["how"], _SLIGHT) - _SLACK
    most = _SLIGHT + _SLACK if word["how"] == "slightly" else np.inf
    return bool(least <= value <= most)


def name_beside(z: Array, i: int, features: list[str], taken: list[str]) -> str:
    """A name for segment `i` among others that says something else than those that are `taken`. IN z (n_features, k)."""
    others = {frozenset(_NUMBER.sub("", name).lower().split(", ")) for name in taken}
    for depth, detailed in [(2, False), (2, True), (3, True), (len(features), True)]:
        words = _words(z[:, i], features, depth, detailed)
        if frozenset(word.lower() for word in words) not in others:
            return _sentence(words)
    name, number = _sentence(words), 2
    if name not in taken:
        return name
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def _words(z: Array, features: list[str], depth: int, detailed: bool) -> list[str]:
    least = _QUIET if detailed else _SLIGHT
    strongest = [int(j) for j in np.argsort(-np.abs(z), kind="stable")[:depth] if abs(z[j]) >= least]
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

"""Names in words, from what sets a segment apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple, Self

import numpy as np

from streamseg.core.numeric.types import Array, Flags

# Standard deviations from the mean of all customers at which a word changes. Below half of one a segment is called average:
# of skewed features its arithmetic mean may well lie on the other side of that of all.
_QUIET, _SLIGHT, _STRONG = 0.25, 0.5, 1.25
# ... and how far beyond that a word that was given is kept.
_SLACK = 0.1
# A feature that is by so much stronger than those of a name is missing in it.
_LEFT_OUT = 0.3
# At least so many members have the category that they are called by; a name keeps it down to a little less.
_MOSTLY, _SHARE_SLACK = 0.5, 0.05
_NUMBER = re.compile(r"\s*\(\d+\)$")
_LEVELS = re.compile(r"(?:(?P<how>very|slightly) )?(?P<way>high|low|mostly|often|rarely) (?P<feature>.+)")
# Of days since the last event: a high number is a customer who has not been there for long.
_SILENCES = re.compile(r"(?:(?P<how>very|fairly) )?(?P<way>lapsed|recent)(?: by (?P<feature>.+))?")


class Traits(NamedTuple):
    """What segments are named by.

    Attributes:
        features: names of the columns; a category of a one-hot field is `field=category`.
        z: (n_features, k) how many standard deviations each center lies above the mean of all customers.
        shares: (n_features, k) the share of members that have the category; NaN for features that are no categories.
        recency: (n_features,) which are days since a customer's last event.
    """

    features: list[str]
    z: Array
    shares: Array
    recency: Flags

    @classmethod
    def of(cls, features: Sequence[str], z: Array, centers: Array, categories: Flags, recency: Flags) -> Self:
        """IN all; `categories` (n_features,): which rows of the centers are shares of members."""
        return cls(list(features), z, np.where(categories[:, None], centers, np.nan), recency)

    @property
    def spoken(self) -> list[str]:
        """The features as words: a category alone where no other field has one of that name."""
        bare = [name.partition("=")[2] if self._is_category(j) else name for j, name in enumerate(self.features)]
        unclear = {name for name in bare if bare.count(name) > 1}
        return [
            (full.replace("=", " ") if short in unclear else short).replace("_", " ")
            for full, short in zip(self.features, bare, strict=True)
        ]

    def strengths(self, i: int) -> Array:
        """How much each feature sets segment `i` apart, (n_features,).

        Where most members have one category, the field's other categories say no more.
        """
        strengths = np.abs(self.z[:, i])
        mostly = [j for j, share in enumerate(self.shares[:, i]) if share >= _MOSTLY]
        for j in mostly:
            field = self.features[j].partition("=")[0]
            for other, name in enumerate(self.features):
                if other != j and self._is_category(other) and name.partition("=")[0] == field:
                    strengths[other] = 0.0
        return strengths

    def _is_category(self, j: int) -> bool:
        return not bool(np.isnan(self.shares[j]).all())


def names_of(traits: Traits) -> list[str]:
    """A distinct name for each segment: its two strongest features, such as "High income, mostly gold". IN traits.

    Names that say the same in another order count as equal. Where two segments would share one, features that say little are
    named, too ("slightly"), then further features, then there is a number.
    """
    k = traits.z.shape[1]
    for depth, detailed in [(2, False), (2, True), (3, True), (len(traits.features), True)]:
        words = [_words(traits, i, depth, detailed) for i in range(k)]
        if len({frozenset(told) for told in words}) == k:
            break
    names = [_sentence(told) for told in words]
    return [name if names.index(name) == i else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def outdated(name: str, traits: Traits, i: int, others: Collection[str] = ()) -> bool:
    """Whether a name that was made of words no longer fits segment `i`. IN all; `others`: names of the other segments.

    It is false, omits the strongest feature, or has a number although no other segment has the bare name. A word is kept
    somewhat beyond the threshold at which it is assigned. A name of other words is never outdated.
    """
    bare = _NUMBER.sub("", name)
    words = _parsed(bare.lower(), traits)
    if words is None:
        return False
    strengths = traits.strengths(i)
    told = max((abs(float(traits.z[j, i])) for _, j in words), default=_SLIGHT - _LEFT_OUT)
    if float(strengths.max(initial=0.0)) > told + _LEFT_OUT:
        return True
    if any(not _fits(word, float(traits.z[j, i]), float(traits.shares[j, i])) for word, j in words):
        return True
    return bare != name and _words_of(bare) not in map(_words_of, others)


def _parsed(name: str, traits: Traits) -> list[tuple[re.Match[str], int]] | None:
    """The words of a name in small letters, each with the place of its feature; None for a name of other words."""
    if name == "average":
        return []
    places = {feature.lower(): j for j, feature in enumerate(traits.spoken)}
    silent = np.flatnonzero(traits.recency).tolist()
    words = []
    for part in name.split(", "):
        word = _LEVELS.fullmatch(part) or _SILENCES.fullmatch(part)
        if word is None:
            return None
        place = silent[0] if word["feature"] is None and len(silent) == 1 else places.get(word["feature"])
        if place is None:
            return None
        words.append((word, place))
    return words


def _fits(word: re.Match[str], z: float, share: float) -> bool:
    if word["way"] == "mostly":
        return share >= _MOSTLY - _SHARE_SLACK
    if word["way"] == "often" and share >= _MOSTLY + _SHARE_SLACK:
        return False
    value = z if word["way"] in ("high", "often", "lapsed") else -z
    slightly = word["how"] in ("slightly", "fairly")
    very = word["how"] == "very"
    least = (_STRONG if very else _QUIET if slightly else _SLIGHT) - _SLACK
    most = np.inf if very else (_SLIGHT if slightly else _STRONG) + _SLACK
    return bool(least <= value <= most)


def name_beside(traits: Traits, i: int, taken: Sequence[str]) -> str:
    """A name for segment `i` among others that says something else than those that are `taken`. IN all."""
    exactly = {_words_of(name) for name in taken}
    others = exactly | {_words_of(_NUMBER.sub("", name)) for name in taken}
    for depth, detailed in [(2, False), (2, True), (3, True), (len(traits.features), True)]:
        words = _words(traits, i, depth, detailed)
        if _words_of(_sentence(words)) not in others:
            return _sentence(words)
    name, number = _sentence(words), 2
    if _words_of(name) not in exactly:
        return name
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def _words(traits: Traits, i: int, depth: int, detailed: bool) -> list[str]:
    strengths, least = traits.strengths(i), _QUIET if detailed else _SLIGHT
    strongest = [int(j) for j in np.argsort(-strengths, kind="stable")[:depth] if strengths[j] >= least]
    return [_word(traits, i, j, detailed) for j in strongest] or ["average"]


def _word(traits: Traits, i: int, j: int, detailed: bool) -> str:
    """What feature `j` says of segment `i`, such as "very high spend" or "lapsed"."""
    z, feature = float(traits.z[j, i]), traits.spoken[j]
    if not traits.recency[j]:
        return f"{_level(z, float(traits.shares[j, i]), detailed)} {feature}"
    way = "lapsed" if z > 0 else "recent"
    way = f"very {way}" if abs(z) >= _STRONG else f"fairly {way}" if detailed and abs(z) < _SLIGHT else way
    return way if np.count_nonzero(traits.recency) == 1 else f"{way} by {feature}"


def _words_of(name: str) -> frozenset[str]:
    """What a name says, in whatever order."""
    return frozenset(name.lower().split(", "))


def _sentence(words: list[str]) -> str:
    text = ", ".join(words)
    return text[0].upper() + text[1:]


def _level(z: float, share: float, detailed: bool) -> str:
    if share >= _MOSTLY:
        return "mostly"
    level = ("high" if z > 0 else "low") if np.isnan(share) else ("often" if z > 0 else "rarely")
    if abs(z) >= _STRONG:
        return f"very {level}"
    if detailed and abs(z) < _SLIGHT:
        return f"slightly {level}"
    return level

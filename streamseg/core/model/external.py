"""A river clusterer in place of the built-in model.

It decides which segment a row is in, and nothing else: centers, distances, shares, names are those of the rows that it put
there, so all that is told of a segment is told of its segments too. What it learns is the rows themselves, which ride in
the deltas in order: every replica feeds its own copy with the same rows, and so comes to the same model. No sum of two
such models exists, which is why each worker learns everything.

Its bytes (a pickle) may differ where its answers do not, so a digest names it by what it was fed.
"""

from __future__ import annotations

import hashlib
import importlib
import operator
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec
import numpy as np

from streamseg.core.model.codec import Opaque
from streamseg.core.model.spec import ModelSpec
from streamseg.core.numeric.types import Array, Ints
from streamseg.errors import ConfigError

_LARGEST_LABEL = 2**31 - 1
# A factory's model is tried on so many rows, and asked for so many labels. Two that begin by chance may agree by chance
# (river's k-means of two centers every other time), so it is made more than twice.
_TRIED_ROWS, _ASKED_ROWS, _TRIES = 600, 100, 12


class Unnamed(msgspec.Struct):
    """A label that is no segment yet: customers who came to it, how many rows it was given, and their mean."""

    members: int
    rows: float
    mean: list[float]


class _Kept(msgspec.Struct):
    """`estimator`: a pickle; `fed`: a digest of the rows that it was fed; `refused`: how many of them it raised on."""

    estimator: bytes
    fed: bytes
    refused: int


class External(Opaque):
    """An estimator with `learn_one` and `predict_one`, and what it was fed so far.

    One that was read back is a pickle until it is asked or fed, so nothing runs where somebody only looks.
    """

    def __init__(self, estimator: Any) -> None:
        # At most one is None: it has changed since it was pickled, or was not asked since it was read back.
        self._estimator: Any = estimator
        self._frozen: bytes | None = None
        self._fed, self.refused = b"", 0

    def learn(self, x: Array, spec: ModelSpec) -> None:
        """Feed rows in order. IN x (n_weighted, n_rows). A row that it raises on is left out, here and on every replica."""
        self._fed = hashlib.blake2b(np.ascontiguousarray(x).tobytes(), key=self._fed, digest_size=16).digest()
        if self._estimator is None:
            self._estimator = pickle.loads(self._pickled())
        self._frozen = None
        for row in _dicts(x, spec):
            try:
                self._estimator.learn_one(row)
            except Exception:  # noqa: BLE001 - it is committed: who stops here stops at every start
                self.refused += 1

    def predict(self, x: Array, spec: ModelSpec) -> Ints:
        """Its label of each row, (n_rows,). IN x (n_weighted, n_rows).

        A copy is asked, as some models change with a question. Raises ConfigError where it does not answer with a label.
        """
        copy = pickle.loads(self._pickled())
        labels = [_label(copy, row) for row in _dicts(x, spec)]
        return np.array(labels, dtype=np.int64)

    def _pickled(self) -> bytes:
        if self._frozen is None:
            self._frozen = pickle.dumps(self._estimator)
        return self._frozen

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(_Kept(self._pickled(), self._fed, self.refused))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        made = cls(None)
        made._frozen, made._fed, made.refused = kept.estimator, kept.fed, kept.refused
        return made

    def name(self) -> bytes:
        return self._fed


def hashes_are_fixed() -> bool:
    """Whether texts have the same hashes in every process. river adds up features in the order of a set of their names."""
    return not sys.flags.hash_randomization


def factory(path: str, features: Sequence[str]) -> Callable[[], Any]:
    """The function that "package.module:function" names, as seen from the working directory. Raises ValueError.

    What it makes is tried: however often it is made, the same rows must lead to the same labels, also out of a pickle.
    """
    module, _, name = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make: Callable[[], Any] = getattr(importlib.import_module(module), name)
        models = [make() for _ in range(_TRIES)]
        _refuse_what_is_no_new_model(models)
        answers = [_tried(model, features) for model in models]
    except Exception as error:
        raise ValueError(f"model.factory = {path!r} does not work: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if any(labels != answers[0] for labels in answers):
        raise ValueError(
            f"model.factory = {path!r}: made again, the model gives another answer after the same rows, so nobody could "
            "derive its tags again: make it with a seed"
        )
    return make


def _refuse_what_is_no_new_model(models: list[Any]) -> None:
    first = models[0]
    lacks = [name for name in ("learn_one", "predict_one") if not callable(getattr(first, name, None))]
    if lacks:
        raise TypeError(f"it gives a {type(first).__name__}, which is no clusterer: it has no {' and no '.join(lacks)}")
    if any(model is first for model in models[1:]):
        raise TypeError("it gives the same model each time: make a new one within the function")


def _tried(estimator: Any, features: Sequence[str]) -> list[int]:
    """What a model says of rows in groups that it has learned."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(_TRIED_ROWS, len(features))) + 10.0 * rng.integers(8, size=(_TRIED_ROWS, len(features))) + 50.0
    rows = [dict(zip(features, row, strict=True)) for row in values.tolist()]
    for row in rows:
        estimator.learn_one(row)
    copy = pickle.loads(pickle.dumps(estimator))
    return [_label(copy, row) for row in rows[-_ASKED_ROWS:]]


def _dicts(x: Array, spec: ModelSpec) -> list[dict[str, float]]:
    names = spec.names[: spec.n_weighted]
    return [dict(zip(names, row, strict=True)) for row in x.T.tolist()]


def _label(estimator: Any, row: dict[str, float]) -> int:
    where = "model.factory"
    try:
        label = estimator.predict_one(row)
    except Exception as error:
        raise ConfigError(
            f"the model failed in predict_one: {type(error).__name__}: {error}",
            where=where,
            hint="mend it and run again: nothing is lost",
        ) from error
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if not 0 <= number <= _LARGEST_LABEL:
        raise ConfigError(
            f"predict_one gives {label!r}", where=where, hint=f"labels are integers from 0 to {_LARGEST_LABEL}"
        )
    return number

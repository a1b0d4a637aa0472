"""The state of the model: what every worker holds, byte for byte, at the same version.

A version is the number of applied records. Records are applied by `apply` and by nothing else.
"""

from __future__ import annotations

import msgspec
import numpy as np

from streamseg.kernel import histogram
from streamseg.kernel.clusters import Centers
from streamseg.kernel.forgetting import NEVER
from streamseg.kernel.metric import inverse_of, shared_variance
from streamseg.kernel.moments import Moments
from streamseg.kernel.types import Array
from streamseg.model.codec import digest
from streamseg.model.spec import ModelSpec

FORMAT_VERSION = 1


class Segment(msgspec.Struct, frozen=True):
    """A segment's identity. Ids are never used again; the name is frozen at birth."""

    id: int
    name: str
    born_version: int = 0
    predecessors: tuple[int, ...] = ()


class Profile(msgspec.Struct):
    """Running means of the features that do not count in the distance: `weights`, `means`, (n_profile, k)."""

    weights: Array
    means: Array

    @classmethod
    def empty(cls, n_profile: int, k: int) -> Profile:
        return cls(np.zeros((n_profile, k)), np.zeros((n_profile, k)))

    def decay(self, factor: float) -> None:
        if factor != 1.0:
            self.weights *= factor

    def merge(self, other: Profile) -> None:
        """INOUT self, IN other. A center without hits keeps its mean."""
        total = self.weights + other.weights
        share = other.weights / np.where(total > 0.0, total, 1.0)
        self.means = self.means + (other.means - self.means) * share
        self.weights = total

    def copy(self) -> Profile:
        return Profile(self.weights.copy(), self.means.copy())


class Metric(msgspec.Struct):
    """The metric of an epoch, frozen: `origin` (n_features,) and `variance` (n_features,).

    Attributes:
        settled: False while a start from centers alone still waits for rows; the running moments are the metric then.
    """

    epoch: int
    settled: bool
    origin: Array
    variance: Array

    def inverse(self, spec: ModelSpec) -> Array:
        """What multiplies squared differences of the weighted features, (n_weighted,)."""
        weighted = self.variance[: spec.n_weighted]
        return inverse_of(shared_variance(weighted, spec.groups), spec.feature_weight)


class Candidate(msgspec.Struct):
    """One model that competes; the champion's tags are published."""

    segments: list[Segment]
    centers: Centers
    profile: Profile
    histogram: Array

    @property
    def ids(self) -> list[int]:
        return [segment.id for segment in self.segments]

    @classmethod
    def start(cls, segments: list[Segment], centers: Centers, profile: Profile) -> Candidate:
        return cls(segments, centers, profile, np.zeros((len(segments), histogram.N_BINS)))


class WarmUp(msgspec.Struct):
    """What was seen before there are centers.

    Attributes:
        rows: by customer (a 64-bit hash, or a running number): weight, position or time, and the latest row.
        events: accepted events; first_s: event time of the first, in seconds.
    """

    rows: dict[int, tuple[float, float | None, list[float | None]]] = {}
    events: int = 0
    first_s: float | None = None


class ModelState(msgspec.Struct):
    """All of it.

    Attributes:
        clock: largest event time believed so far, in seconds; -inf before the first.
        last_time: event time of the last event as it came.
        age: weight learned so far.
        rows: rows learned so far, warm-up included.
        members: customers tagged with each segment, by id.
        next_id: the next segment id; ids below it were given and are never given again.
        clipped, held_back: how often the guards clipped a feature, and held back a time.
    """

    version: int
    metric: Metric
    moments: Moments
    candidates: list[Candidate]
    champion: int
    next_id: int
    members: dict[int, int]
    warm_up: WarmUp
    clock: float
    last_time: float
    age: float
    rows: int
    clipped: int = 0
    held_back: int = 0

    @classmethod
    def empty(cls, spec: ModelSpec) -> ModelState:
        d = len(spec.features)
        metric = Metric(0, False, np.zeros(d), np.zeros(d))
        return cls(0, metric, Moments.empty(d), [], 0, 0, {}, WarmUp(), NEVER, NEVER, 0.0, 0)

    @property
    def ready(self) -> bool:
        """Whether there are centers to tag with."""
        return bool(self.candidates)

    @property
    def tagging(self) -> Candidate:
        """The champion. Only where `ready`."""
        return self.candidates[self.champion]

    def digest(self) -> bytes:
        return digest(self)

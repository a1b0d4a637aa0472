"""The state of the model: what every worker holds, byte for byte, at the same version.

A version is the number of applied records. Records are applied by `apply` and by nothing else.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from streamseg.core.model.codec import digest
from streamseg.core.model.external import External, Unnamed
from streamseg.core.model.gains import PanelCopy
from streamseg.core.model.names import Traits
from streamseg.core.model.panel import Panel
from streamseg.core.model.population import Population
from streamseg.core.model.reference import Reference
from streamseg.core.model.reservoir import Sample
from streamseg.core.model.spec import ModelSpec
from streamseg.core.numeric import histogram
from streamseg.core.numeric.clusters import Centers
from streamseg.core.numeric.decay import NEVER
from streamseg.core.numeric.metric import inverse_of, shared_variance
from streamseg.core.numeric.moments import Moments
from streamseg.core.numeric.types import Array, Ints, sums_by_label


class Rule(msgspec.Struct, frozen=True):
    """A segment in one line, in the user's units; how many that it holds for are of the segment, and the other way round."""

    text: str
    precision: float
    coverage: float


class Segment(msgspec.Struct, frozen=True):
    """A segment's identity. Ids are never used again; the name says what its customers are like, unless a person gave one.

    Attributes:
        predecessors: segments that its first customers came from; successors: those that its last ones went to.
        why: it was born, and it was retired: "started", "refit", "born", "joined" (no gap was left between).
        given: the name is a person's; previous_name: the one before, where it no longer fitted its customers.
    """

    id: int
    name: str
    born_version: int = 0
    predecessors: tuple[int, ...] = ()
    successors: tuple[int, ...] = ()
    why: str = "started"
    given: bool = False
    previous_name: str | None = None


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

    def widened(self, k: int) -> Profile:
        """For k segments, of which the last ones came after it."""
        more = np.zeros((len(self.weights), k - self.weights.shape[1]))
        return Profile(np.hstack([self.weights, more]), np.hstack([self.means, more])) if more.shape[1] else self


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
    """Centers that compete, by how fast they forget; the champion's tags are published.

    Attributes:
        id: never used again; deltas address candidates by it. speed: place of its forgetting in `ModelSpec.speeds`.
        loss: sum of clipped squared distances of events, each taken before it was learned, faded.
        shift: (n_weighted,) how far all centers have moved together; None for "not so far".
    """

    id: int
    speed: int
    centers: Centers
    loss: float = 0.0
    shift: Array | None = None

    @property
    def moved(self) -> Array:
        """`shift`, also where there is none."""
        return np.zeros(len(self.centers.centers)) if self.shift is None else self.shift


class Trial(msgspec.Struct):
    """A challenger that is tried on new events beside the champion.

    Attributes:
        kind: "refit" (as many segments), "born" (one more) or "joined" (fewer).
        rows: events since it entered; loss, champion_loss: sums over them.
    """

    candidate: Candidate
    kind: Literal["refit", "born", "joined"]
    rows: int = 0
    loss: float = 0.0
    champion_loss: float = 0.0


class Search(msgspec.Struct):
    """When better centers are looked for next: after `wait` more events, or when the loss has risen above `level`.

    Attributes:
        number: of searches so far; due: rows at which the next one comes; last: rows at the last one.
        level: mean loss at the last search; fast: recent loss and weight, faded over a few hundred events, and the sum of
            squared weighted deviations from the mean, of which the recent loss has its standard error.
        panel_loss, panel_error: the panel's mean loss now, of a table, and its standard error.
    """

    number: int
    due: int
    wait: int
    last: int = 0
    level: float = 0.0
    fast_loss: float = 0.0
    fast_weight: float = 0.0
    fast_squares: float = 0.0
    panel_loss: float = 0.0
    panel_error: float = 0.0


class WarmUp(msgspec.Struct):
    """What was seen before there are centers.

    Attributes:
        rows: by customer (a hash, or a running number): weight, position or time, and the latest row.
        events: accepted events; first_s: event time of the first, as far as it is believed, in seconds.
        postponed: `events` at the last attempt to compute first centers that failed.
    """

    rows: dict[int, tuple[float, float | None, list[float | None]]] = {}
    events: int = 0
    first_s: float | None = None
    postponed: int = -1


class ModelState(msgspec.Struct):
    """All of it.

    Attributes:
        segments: the champion's, and so the candidates'; profile, histogram: of the champion's segments.
        retired: segments that are no more, the latest ones.
        champion: place in candidates; scored_weight, scored_rows: what their losses are sums over, since they last began.
        epoch: of the tags: it moves on with the metric, and whenever segments change.
        natural: whether there are valleys between the segments; None where nobody asked.
        clock: largest event time believed so far, in seconds; NEVER before the first.
        last_time: event time of the last event as it came.
        age: weight learned so far; rows: rows learned so far, warm-up included.
        members: customers tagged with each segment, by id.
        next_id: the next segment id; ids below it were given and are never given again. next_candidate: likewise.
        clipped, held_back: how often the guards clipped a feature, and held back a time.
        promotions: so far.
        reference: customers that drift is measured against; None while there are none yet, and where nobody watches.
        births: the center of each segment when it was born, by id.
        external: what decides on segments in place of the candidates; unnamed: its labels that are no segments yet.
        population: of a table of customers, the sums that its centers are made of; None where rows have no keys, or there
            are no centers yet.
        raw_means: (n_logged, k) arithmetic means, before the logarithm, of the features that are logarithms; NaN for none.
        panel: its sample of customers; radii: (2, k) median and 95th percentile of squared distances to the centers, NaN
            where that is not known; customers: in the table; passes: number of requested passes over it, the last one
            when `passed` rows had been learned.
        copies: of the panel, at the last multiples of the horizon of drift.
        misnamed: ids of segments whose names no longer fit their customers, when `looked` rows had been learned; to_name:
            those of which that was so twice in a row.
    """

    version: int
    metric: Metric
    moments: Moments
    segments: list[Segment]
    retired: list[Segment]
    profile: Profile
    histogram: Array
    candidates: list[Candidate]
    champion: int
    trial: Trial | None
    search: Search
    sample: Sample
    rules: dict[int, Rule]
    natural: bool | None
    epoch: int
    next_id: int
    members: dict[int, int]
    warm_up: WarmUp
    clock: float
    last_time: float
    age: float
    rows: int
    next_candidate: int = 0
    scored_weight: float = 0.0
    scored_rows: int = 0
    clipped: int = 0
    held_back: int = 0
    promotions: int = 0
    reference: Reference | None = None
    births: dict[int, list[float]] = {}
    external: External | None = None
    unnamed: dict[int, Unnamed] = {}
    population: Population | None = None
    panel: Panel | None = None
    radii: Array | None = None
    customers: int = 0
    passes: int = 0
    passed: int = 0
    looked: int = 0
    misnamed: list[int] = []
    to_name: list[int] = []
    copies: list[PanelCopy] = []
    raw_means: Array | None = None

    @classmethod
    def empty(cls, spec: ModelSpec) -> ModelState:
        d = len(spec.features)
        metric = Metric(0, False, np.zeros(d), np.zeros(d))
        n_profile = d - spec.n_weighted
        return cls(
            0, metric, Moments.empty(d), [], [], Profile.empty(n_profile, 0), np.zeros((0, histogram.N_BINS)), [], 0, None,
            Search(0, 0, 0), Sample.empty(d), {}, None, 0, 0, {}, WarmUp(), NEVER, NEVER, 0.0, 0,
            external=None if spec.make is None else External(spec.make()),
        )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Whether there are centers to tag with."""
        return bool(self.candidates)

    @property
    def tagging(self) -> Candidate:
        """The champion. Only where `ready`."""
        return self.candidates[self.champion]

    @property
    def ids(self) -> list[int]:
        return [segment.id for segment in self.segments]

    @property
    def mean_loss(self) -> float:
        """The champion's mean clipped squared distance, over a few thousand events; 0 before the first."""
        return self.tagging.loss / self.scored_weight if self.scored_weight > 0.0 else 0.0

    def digest(self) -> bytes:
        return digest(self)


def unsettled_metric(moments: Moments, centers: Array, epoch: int) -> Metric:
    """The metric of a start from centers alone: running variances, and the centers' spread where one is still zero."""
    variance = moments.variance()
    k = centers.shape[1]
    mean = np.add.reduce(centers, axis=1) / k
    off = centers - mean[:, None]
    spread = np.zeros_like(variance)
    spread[: len(centers)] = np.add.reduce(off * off, axis=1) / k
    origin = moments.mean.copy()
    origin[: len(mean)] = np.where(moments.weight[: len(mean)] > 0.0, moments.mean[: len(mean)], mean)
    return Metric(epoch, False, origin, np.where(variance > 0.0, variance, spread))


def profile_of(extra: Array, labels: Ints, weights: Array, k: int) -> Profile:
    """Means by center of the profile features, NaN left out. IN extra (n_profile, n_rows), labels, weights."""
    out = Profile.empty(len(extra), k)
    for j, row in enumerate(extra):
        there = ~np.isnan(row)
        hits = sums_by_label(labels[there], weights[there], k)
        sums = sums_by_label(labels[there], weights[there] * row[there], k)
        out.weights[j] = hits
        out.means[j] = sums / np.where(hits > 0.0, hits, 1.0)
    return out


def z_of(spec: ModelSpec, centers: Array, metric: Metric) -> Array:
    """Centers in standard deviations from the mean, (n_weighted, k); 0 where a feature does not vary."""
    n = spec.n_weighted
    deviation = np.sqrt(metric.variance[:n])
    flat = deviation <= 0.0
    z: Array = (centers - metric.origin[:n, None]) / np.where(flat, 1.0, deviation)[:, None]
    return np.where(flat[:, None], 0.0, z)


def traits_of(spec: ModelSpec, centers: Array, metric: Metric) -> Traits:
    """What segments with these centers (n_weighted, k) are named by."""
    names = spec.names[: spec.n_weighted]
    recency = np.array([feature.per_day != 0.0 for feature in spec.features[: spec.n_weighted]], dtype=np.bool_)
    return Traits.of(names, z_of(spec, centers, metric), centers, spec.categories, recency)


def traits_now(state: ModelState, spec: ModelSpec) -> Traits:
    """What the segments are named by, against the customers as they are now."""
    now = Metric(0, True, state.moments.mean, state.moments.variance())
    return traits_of(spec, state.tagging.centers.centers[: spec.n_weighted], now)

"""The records of the model log: what changes the model, as data."""

from __future__ import annotations

import msgspec

from streamseg.kernel.clusters import CenterDelta, Centers
from streamseg.kernel.moments import Moments
from streamseg.kernel.types import Array, Ints
from streamseg.model.state import Metric, Profile, Segment


class CandidateDelta(msgspec.Struct):
    """What a batch adds to one candidate; `ids` names its centers in order. The histogram is sparse: cells, weights."""

    ids: list[int]
    centers: CenterDelta
    profile: Profile
    cells: Ints
    cell_weights: Array


class WarmRows(msgspec.Struct):
    """Rows of a warm-up: the latest of each customer in the batch, `x` (n_features, n_rows)."""

    keys: list[int]
    weights: Array
    at: Array
    x: Array


class Delta(msgspec.Struct, tag="delta"):
    """What one micro-batch adds to the model: sums and counts, never a new model.

    Attributes:
        base_version, base_digest: the model that it was computed from.
        epoch: metric epoch that the batch began in.
        clock, last_time, age, rows: as in `ModelState`; age and rows are what the batch adds.
        renewals: the metrics that the batch went through, if it had to renew; the last one stands.
        moved: change of the number of customers in each segment, by id.
        erased: warm-up keys of customers that were erased.
    """

    base_version: int
    base_digest: bytes
    epoch: int
    clock: float
    last_time: float
    age: float
    rows: int
    moments: Moments
    candidates: list[CandidateDelta]
    renewal: Metric | None
    warm_up: WarmRows | None
    events: int = 0
    first_s: float | None = None
    clipped: int = 0
    held_back: int = 0
    moved: dict[int, int] = {}
    erased: list[int] = []


class Start(msgspec.Struct, tag="start"):
    """First centers. Only the first one in the log counts."""

    base_version: int
    base_digest: bytes
    segments: list[Segment]
    centers: Centers
    profile: Profile
    moments: Moments
    metric: Metric


ModelChange = Delta | Start

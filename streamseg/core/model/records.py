"""The records of the model log: what changes the model, as data."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from streamseg.core.model.external import Unnamed
from streamseg.core.model.panel import PanelRows
from streamseg.core.model.population import Sums
from streamseg.core.model.reservoir import Sample
from streamseg.core.model.state import Metric, Profile, Rule, Segment
from streamseg.core.numeric.clusters import CenterDelta, Centers, Together
from streamseg.core.numeric.moments import Moments
from streamseg.core.numeric.types import Array, Ints


class CandidateDelta(msgspec.Struct):
    """What a batch adds to one candidate. One that is no more is passed over."""

    id: int
    centers: CenterDelta
    loss: float = 0.0
    together: Together | None = None


class TrialDelta(msgspec.Struct):
    """What a batch adds to the challenger, and the champion's loss on the same events. Neither fades."""

    candidate: CandidateDelta
    champion_loss: float


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
        scored_weight: weight that the candidates' losses are over, faded to the batch's end.
        fast_loss, fast_weight, fast_squares: as in `Search`, what the batch adds.
        profile, cells, cell_weights: of the champion; the histogram is sparse.
        renewal: the last metric that the batch went through, if it had to renew.
        sample: rows for the sample.
        moved: change of the number of customers in each segment, by id.
        fed: rows for the external model in order, (n_weighted, n); unnamed: its labels that are no segments yet.
        losses: (2, n), events and sums of their clipped losses, in order.
        erased: keys of customers that were erased, in the warm-up; erased_rows: in the sample.
        customers: by how many there are more; closes: the open step of the model.
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
    profile: Profile
    cells: Ints
    cell_weights: Array
    renewal: Metric | None
    warm_up: WarmRows | None
    trial: TrialDelta | None = None
    scored_weight: float = 0.0
    fast_loss: float = 0.0
    fast_weight: float = 0.0
    fast_squares: float = 0.0
    sample: Sample | None = None
    events: int = 0
    first_s: float | None = None
    clipped: int = 0
    held_back: int = 0
    moved: dict[int, int] = {}
    erased: list[int] = []
    erased_rows: list[int] = []
    losses: Array | None = None
    fed: Array | None = None
    unnamed: dict[int, Unnamed] = {}
    customers: int = 0
    closes: bool = True


class Upserts(msgspec.Struct, tag="upserts"):
    """What one micro-batch changes in the table of customers, of which segments are clusters: sums, new minus old.

    Attributes:
        base_version, base_digest: the model that it was computed from; epoch: of its tags, to which the sums belong.
        clock: as in `ModelState`; rows: accepted events.
        customers: by how many there are more; sums: what their rows add to the population, less what they added before.
        panel: rows for the panel, relative to the population's origin; gone: keys of customers that it has and loses.
        moved: change of the number of customers in each segment, by id.
        loss: sum of clipped squared distances of the events; losses: (3, n), numbers of blocks of accepted events, how many
            of them are complete, sums of their losses, in order.
        erased, warm_up, held_back, fed, unnamed, closes: as in `Delta`.
    """

    base_version: int
    base_digest: bytes
    epoch: int
    clock: float
    rows: int
    customers: int
    sums: Sums
    panel: PanelRows
    gone: np.ndarray
    moved: dict[int, int]
    loss: float
    losses: Array
    erased: list[int]
    warm_up: WarmRows | None = None
    first_s: float | None = None
    held_back: int = 0
    clipped: int = 0
    fed: Array | None = None
    unnamed: dict[int, Unnamed] = {}
    closes: bool = True


class Start(msgspec.Struct, tag="start"):
    """First centers. Only the first one in the log counts."""

    base_version: int
    base_digest: bytes
    segments: list[Segment]
    centers: Centers
    profile: Profile
    moments: Moments
    metric: Metric
    natural: bool | None = None
    rules: dict[int, Rule] = {}


class Searched(msgspec.Struct, tag="searched"):
    """Better centers were looked for, the `number`-th time: a challenger of a kind, or none. Rules are those of today."""

    base_version: int
    base_digest: bytes
    number: int
    kind: Literal["refit", "born", "joined"] | None
    centers: Centers | None
    rules: dict[int, Rule]


class Refitted(msgspec.Struct, tag="refitted"):
    """Better centers of a table were looked for on the panel, the `number`-th time.

    Attributes:
        kind: what was found; None for nothing.
        centers: (n_weighted, k); segments: in their order; retired: those that are no more.
        rules: of the segments afterwards, by id.
    """

    base_version: int
    base_digest: bytes
    number: int
    kind: Literal["refit", "born", "joined"] | None = None
    centers: Array | None = None
    segments: list[Segment] = []
    retired: list[Segment] = []
    rules: dict[int, Rule] = {}


class Rescaled(msgspec.Struct, tag="rescaled"):
    """A metric from the panel, which replaces the current one; `number`: of the search that it takes the place of."""

    base_version: int
    base_digest: bytes
    number: int
    metric: Metric


class Promoted(msgspec.Struct, tag="promoted"):
    """A candidate becomes champion. Of one of another half-life the segments stay as they are.

    Attributes:
        candidate: its id; where there is none of it any more, the record is passed over.
        segments: the challenger's, in the order of its centers; None for a half-life.
        retired: segments that it has no more; profile: of its segments.
        speed: place of the half-life that it goes on with; None for the one that it was found at.
    """

    base_version: int
    base_digest: bytes
    candidate: int
    segments: list[Segment] | None = None
    retired: list[Segment] = []
    profile: Profile | None = None
    rules: dict[int, Rule] = {}
    speed: int | None = None


class Dropped(msgspec.Struct, tag="dropped"):
    """The challenger did not win."""

    base_version: int
    base_digest: bytes
    candidate: int


class Appeared(msgspec.Struct, tag="appeared"):
    """Labels that the external model gave for the first time are segments from now on."""

    base_version: int
    base_digest: bytes
    segments: list[Segment]


class Postponed(msgspec.Struct, tag="postponed"):
    """First centers could not be computed, as too few customers differ. The next attempt follows more events."""

    base_version: int
    base_digest: bytes


class Asked(msgspec.Struct, tag="asked"):
    """Somebody asks for a search: drift was detected."""

    base_version: int
    base_digest: bytes


class Described(msgspec.Struct, tag="described"):
    """Names, by segment id, that say what its customers are like now."""

    base_version: int
    base_digest: bytes
    names: dict[int, str]


class Renamed(msgspec.Struct, tag="renamed"):
    """A person gives a segment a name. Passed over where another segment has it."""

    base_version: int
    segment: int
    name: str


Decision = Start | Postponed | Searched | Refitted | Rescaled | Promoted | Dropped | Appeared | Asked | Described | Renamed
ModelChange = Delta | Upserts | Decision

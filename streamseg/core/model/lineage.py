"""Identity: which segment of new centers is which of the old ones, and what became of the others.

Segments are the same if they share customers: at least half of those of both, in the matching that shares most. A match
keeps its id and name; anything else is a new segment with a new id, and what it came from is kept. Ids are never used again.

A birth adds one center to those that stand, which stay what they are: by the time it is certain, newcomers may be more than
the customers of the segment that they were put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from streamseg.core.model.names import Traits, name_beside
from streamseg.core.model.state import Segment
from streamseg.core.numeric.types import Array, Ints

# A segment comes from another one, or goes to it, with at least this share of its customers.
_SHARE = 0.1


class Lineage(NamedTuple):
    """Segments in the order of the new centers, and the old ones that are no more, with what they became."""

    segments: list[Segment]
    retired: list[Segment]


def lineage(
    old: Sequence[Segment], before: Ints, after: Ints, n_new: int, traits: Traits, next_id: int, version: int,
    why: str,
) -> Lineage:  # fmt: skip
    """Match by shared customers. IN all.

    `before`, `after`: places of each customer among the old and the new centers, (n,); `traits` of the new
    ones; `version`, `why`: of births and ends.
    """
    shared = np.zeros((len(old), n_new))
    np.add.at(shared, (before, after), 1.0)
    match = {i: i for i in range(len(old))} if why == "born" else _matched(shared)
    taken = [segment.name for segment in old]
    segments: list[Segment] = []
    for j in range(n_new):
        if j in match:
            segments.append(old[match[j]])
            continue
        came = tuple(old[i].id for i in np.flatnonzero(shared[:, j] >= max(1.0, _SHARE * shared[:, j].sum())).tolist())
        name = name_beside(traits, j, taken)
        taken.append(name)
        segments.append(Segment(next_id, name, version, came, (), why))
        next_id += 1
    retired = []
    for i, segment in enumerate(old):
        if i not in match.values():
            went = np.flatnonzero(shared[i] >= max(1.0, _SHARE * shared[i].sum())).tolist()
            successors = tuple(segments[j].id for j in went)
            retired.append(replace(segment, successors=successors, why=why))
    return Lineage(segments, retired)


def under_given_names(segments: Sequence[Segment], known: Sequence[Segment]) -> list[Segment]:
    """Segments under the names that people gave to those that are known, which no other one may have. IN both."""
    given = {one.id: one.name for one in known if one.given}
    named = []
    for segment in segments:
        if segment.id in given:
            named.append(replace(segment, name=given[segment.id], given=True))
        else:
            taken = segment.name in given.values()
            named.append(replace(segment, name=f"{segment.name} ({segment.id})") if taken else segment)
    return named


def _matched(shared: Array) -> dict[int, int]:
    """New place to old place. IN shared (n_old, n_new) counts."""
    half_old, half_new = shared.sum(axis=1) / 2.0, shared.sum(axis=0) / 2.0
    return {
        j: i for i, j in paired(-shared) if shared[i, j] > 0 and shared[i, j] >= half_old[i] and shared[i, j] >= half_new[j]
    }


def paired(costs: Array) -> list[tuple[int, int]]:
    """Pairs of a row and a column each, of least cost together. IN costs (n, m)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))

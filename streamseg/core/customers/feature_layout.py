"""How configured features become rows of the model: one-hot fields spread out, weighted features first."""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np

from streamseg.core.customers.aggregates import ColumnSpec, Feature, columns_of
from streamseg.core.numeric.portable_math import signed_log1p
from streamseg.core.numeric.types import Array


class Row(msgspec.Struct, frozen=True):
    """One row of the model's input: a feature, or one category of a one-hot field."""

    name: str
    feature: int
    weight: float
    group: str = ""
    category: int = -1


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The features of a job, and what follows from them."""

    features: tuple[Feature, ...]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        rows: list[Row] = []
        for i, feature in enumerate(self.features):
            if feature.categories:
                rows += [
                    Row(f"{feature.name}={category}", i, feature.weight, feature.name, j)
                    for j, category in enumerate(feature.categories)
                ]
            else:
                rows.append(Row(feature.name, i, feature.weight))
        return tuple(sorted(rows, key=lambda row: row.weight == 0))

    @cached_property
    def n_weighted(self) -> int:
        return sum(row.weight > 0 for row in self.rows)

    @cached_property
    def columns(self) -> list[list[ColumnSpec]]:
        """State columns of each feature."""
        return [columns_of(feature) for feature in self.features]

    @cached_property
    def fades(self) -> bool:
        """Whether customers change while they are silent."""
        return any(feature.fades for feature in self.features)

    def model_rows(self, raw: Array) -> Array:
        """Values (n_features, n) before transforms to the model's rows (n_rows_of_model, n). IN raw."""
        cells = np.empty((len(self.rows), raw.shape[1]))
        for i, row in enumerate(self.rows):
            values = raw[row.feature]
            if row.category >= 0:
                cells[i] = np.where(np.isnan(values), np.nan, values == row.category)
            elif self.features[row.feature].transform == "log1p":
                cells[i] = signed_log1p(values)
            else:
                cells[i] = values
        return cells

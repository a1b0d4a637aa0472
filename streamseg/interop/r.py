"""R: a CSV of means, deviations and centers, which base R writes and reads. Saved objects (.rds) in, through rdata.

In R::

    x <- scale(read.csv("customer_data.csv")[c("age", "income", "purchases")])
    km <- kmeans(x, centers = 3)
    write.csv(rbind(scaled.center = attr(x, "scaled:center"), scaled.scale = attr(x, "scaled:scale"), km$centers),
              "model.csv")
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.core.model.model_file import FittedModel
from streamseg.errors import ConfigError
from streamseg.interop.arrays import Array, arrays_of, model_of, without_transforms

_CENTER, _SCALE = ("scaled.center", "scaled:center", "center"), ("scaled.scale", "scaled:scale", "scale")
_HINT = (
    'write.csv(rbind(scaled.center = attr(x, "scaled:center"), scaled.scale = attr(x, "scaled:scale"), km$centers), PATH)'
)


def read_r(path: Path, scaled: Path | None = None) -> FittedModel:
    """From a CSV, or from a kmeans object that `saveRDS` wrote; `scaled`: the scaled matrix, as .rds, too.

    Raises ConfigError. R numbers clusters from 1: these numbers are the segments' ids.
    """
    try:
        if path.suffix.lower() == ".rds":
            return _from_rds(path, scaled)
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the model: {error}", where=str(path), hint=_HINT) from None
    return _from_rows(rows, path)


def _from_rows(rows: list[list[str]], path: Path) -> FittedModel:
    if len(rows) < 3 or len({len(row) for row in rows}) != 1:
        raise ConfigError("this is no table of centers", where=str(path), hint=_HINT)
    names = rows[0][1:]
    try:
        body = {row[0]: np.array([float(cell) for cell in row[1:]]) for row in rows[1:]}
    except ValueError as error:
        raise ConfigError(f"a cell is no number: {error}", where=str(path), hint=_HINT) from None
    if len(body) != len(rows) - 1:
        raise ConfigError("two rows have the same name", where=str(path), hint=_HINT)
    center, scale = (next((body.pop(name) for name in names_ if name in body), None) for names_ in (_CENTER, _SCALE))
    if not all(key.isdigit() for key in body):
        raise ConfigError(f"rows are named by the clusters' numbers, not {list(body)!r}", where=str(path), hint=_HINT)
    z = np.array(list(body.values())).reshape(len(body), len(names))
    unscaled = center is None and scale is None
    mean = np.zeros(len(names)) if center is None else center
    deviation = np.ones(len(names)) if scale is None else scale
    return model_of(names, mean, deviation, z, ids=list(map(int, body)), scaled=not unscaled, where=str(path))


def _from_rds(path: Path, scaled: Path | None) -> FittedModel:
    try:
        import rdata
    except ImportError:
        raise ConfigError("objects of R are read through rdata", hint="install streamseg with its extra `interop`") from None
    try:
        with warnings.catch_warnings():
            # Of its class kmeans rdata knows no more than that it is a list, which is all that is wanted.
            warnings.simplefilter("ignore")
            found = rdata.read_rds(path)
        centers = found["centers"]
        sizes = np.asarray(found["size"], dtype=np.float64)
        names = [str(name) for name in np.asarray(centers.coords[centers.dims[1]])]
        z = np.asarray(centers, dtype=np.float64)
        mean, deviation = (np.zeros(len(names)), np.ones(len(names))) if scaled is None else _scaling(rdata, scaled)
    except OSError as error:
        raise ConfigError(f"cannot read the model: {error}", where=str(path), hint="saveRDS(km, PATH)") from None
    except Exception as error:  # noqa: BLE001 - whatever rdata raises, the file is not what is wanted
        raise ConfigError(
            f"this is no kmeans object of R, or no scaled matrix: {type(error).__name__}: {error}",
            where=str(path),
            hint="saveRDS(km, PATH), and saveRDS(x, SCALED) of the matrix that scale() gave",
        ) from None
    ids = list(range(1, len(z) + 1))
    where = str(path)
    return model_of(names, mean, deviation, z, ids=ids, sizes=sizes, count=float(sizes.sum()), scaled=scaled is not None,
                    where=where)  # fmt: skip


def _scaling(rdata: Any, path: Path) -> tuple[Array, Array]:
    """Attributes of a matrix, which rdata's converted values leave out."""
    attributes: dict[str, Any] = {}
    at = rdata.parser.parse_file(path).object.attributes
    while at is not None and at.value is not None:
        tag = at.tag if at.tag.value is not None else at.tag.referenced_object
        attributes[tag.value.value.decode()] = at.value[0]
        at = at.value[1] if at.value[1].value is not None else None
    center, scale = (np.asarray(attributes[f"scaled:{name}"].value, dtype=np.float64) for name in ("center", "scale"))
    return center, scale


def write_r(model: FittedModel, path: Path, *, as_is: bool = False) -> list[str]:
    """A CSV, and beside it a script that labels a data frame in base R. Raises ConfigError, OSError."""
    there = arrays_of(model if as_is else without_transforms(model, "a table of centers"))
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["", *there.names])
        out.writerow(["scaled.center", *map(repr, there.mean.tolist())])
        out.writerow(["scaled.scale", *map(repr, there.scale.tolist())])
        for segment, center in zip(there.ids, there.z.tolist(), strict=True):
            out.writerow([segment, *map(repr, center)])
    script = path.with_suffix(".R")
    script.write_text(_SCRIPT.format(path=path.name), encoding="utf-8")
    return [f"{script} labels a data frame: segment_of(x)"]


_SCRIPT = """# Labels the rows of a data frame with segment ids, in base R. Made by `streamseg export --to r`.
segment_of <- function(x, model = "{path}") {{
  m <- as.matrix(read.csv(model, row.names = 1, check.names = FALSE))
  z <- scale(as.matrix(x[, colnames(m), drop = FALSE]), m["scaled.center", ], m["scaled.scale", ])
  centers <- m[-(1:2), , drop = FALSE]
  far <- sapply(rownames(centers), function(i) rowSums(sweep(z, 2, centers[i, ])^2))
  as.integer(rownames(centers)[max.col(-matrix(far, nrow = nrow(z)), "first")])
}}
"""

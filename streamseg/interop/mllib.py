"""Spark MLlib: the folder of a PipelineModel (VectorAssembler, StandardScaler, KMeans), read and written without a JVM."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.core.model.model_file import FittedModel
from streamseg.errors import ConfigError
from streamseg.interop.arrays import arrays_of, model_of, without_transforms

_ML = "org.apache.spark.ml."
_HINT = "save a fitted Pipeline of VectorAssembler, StandardScaler and KMeans: model.write().overwrite().save(PATH)"
SPARK_VERSION = "3.5.0"


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("models of Spark are Parquet, which needs pyarrow", hint="install the extra `interop`") from None
    return pyarrow


def read_mllib(path: Path) -> FittedModel:
    """Raises ConfigError."""
    where = str(path)
    if not (path / "metadata").is_dir():
        raise ConfigError("there is no model of Spark here", where=where, hint=_HINT)
    try:
        return _read(path, where)
    except ConfigError:
        raise
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"the model is damaged: {type(error).__name__}: {error}", where=where, hint=_HINT) from None


def _read(path: Path, where: str) -> FittedModel:
    arrow, pipeline = _arrow(), _metadata(path)
    if pipeline["class"] != _ML + "PipelineModel":
        raise ConfigError(f"a PipelineModel is wanted, this is {pipeline['class']}", where=where, hint=_HINT)
    columns: list[str] = []
    scaling: tuple[list[float], list[float]] | None = None
    centers: list[list[float]] = []
    uids = pipeline["paramMap"]["stageUids"]
    for i, uid in enumerate(uids):
        stage = path / "stages" / f"{i:0{len(str(len(uids)))}d}_{uid}"
        about = _metadata(stage)
        params = about.get("defaultParamMap", {}) | about["paramMap"]
        kind = about["class"].removeprefix(_ML)
        if kind == "feature.VectorAssembler":
            columns = params["inputCols"]
        elif kind == "feature.StandardScalerModel":
            (row,) = _rows(arrow, stage / "data")
            mean, std = _values(row["mean"]), _values(row["std"])
            # What does not vary Spark maps to 0.
            scaling = (
                mean if params["withMean"] else [0.0] * len(mean),
                [one or 1.0 for one in std] if params["withStd"] else [1.0] * len(std),
            )
        elif kind == "clustering.KMeansModel":
            if params.get("distanceMeasure", "euclidean") != "euclidean":
                raise ConfigError(
                    "the model clusters by cosine, and distances here are Euclidean",
                    where=where,
                    hint="fit it with euclidean",
                )
            rows = sorted(_rows(arrow, stage / "data"), key=lambda one: one["clusterIdx"])
            centers = [_values(one["clusterCenter"]) for one in rows]
        else:
            raise ConfigError(f"a stage {kind} has no counterpart here", where=where, hint=_HINT)
    if not columns or not centers:
        raise ConfigError("the pipeline lacks a VectorAssembler or a KMeans", where=where, hint=_HINT)
    z = np.array(centers)
    shift, scale = scaling or ([0.0] * len(columns), [1.0] * len(columns))
    return model_of(
        columns, np.array(shift), np.array(scale), z, ids=list(range(len(z))), scaled=scaling is not None, where=where
    )


def _metadata(path: Path) -> Any:
    found = sorted((path / "metadata").glob("part-*"))
    if not found:
        raise FileNotFoundError(f"no metadata in {path.name}")
    return json.loads(found[0].read_text(encoding="utf-8").splitlines()[0])


def _rows(arrow: Any, folder: Path) -> list[dict[str, Any]]:
    """Of all parts. One by one, as reading a folder at once imports pandas."""
    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        raise FileNotFoundError(f"no Parquet in {folder.parent.name}/{folder.name}")
    return [row for part in parts for row in arrow.parquet.ParquetFile(part).read().to_pylist()]


def _values(vector: dict[str, Any]) -> list[float]:
    """Of a vector, dense (type 1) or sparse."""
    if vector["type"] == 1:
        return list(vector["values"])
    values = [0.0] * vector["size"]
    for i, value in zip(vector["indices"], vector["values"], strict=True):
        values[i] = value
    return values


def write_mllib(model: FittedModel, path: Path, *, as_is: bool = False) -> list[str]:
    """A PipelineModel's folder, which Spark 3.5 and 4 load. Raises ConfigError, OSError.

    Returns what the reader should know.
    """
    there = arrays_of(model if as_is else without_transforms(model, "a VectorAssembler"))
    if path.exists():
        raise ConfigError(f"{str(path)!r} is there already", hint="name another folder")
    tail = uuid.uuid4().hex[:12]
    uids = [f"{name}_{tail}" for name in ("VectorAssembler", "StandardScaler", "KMeans")]
    stages = [path / "stages" / f"{i}_{uid}" for i, uid in enumerate(uids)]
    _write_metadata(path, "PipelineModel", f"PipelineModel_{tail}", {"stageUids": uids}, {})
    _write_metadata(
        stages[0],
        "feature.VectorAssembler",
        uids[0],
        {"inputCols": there.names, "outputCol": "raw"},
        {"handleInvalid": "error", "outputCol": f"{uids[0]}__output"},
    )
    _write_metadata(
        stages[1],
        "feature.StandardScalerModel",
        uids[1],
        {"withMean": True, "withStd": True, "inputCol": "raw", "outputCol": "features"},
        {"withMean": False, "withStd": True, "outputCol": f"{uids[1]}__output"},
    )
    _write_rows(stages[1], [{"std": _dense(there.scale.tolist()), "mean": _dense(there.mean.tolist())}], ["std", "mean"])
    _write_metadata(
        stages[2],
        "clustering.KMeansModel",
        uids[2],
        {"k": len(there.ids), "featuresCol": "features", "predictionCol": "prediction"},
        {"k": 2, "featuresCol": "features", "predictionCol": "prediction", "distanceMeasure": "euclidean",
         "initMode": "k-means||", "initSteps": 2, "maxIter": 20, "seed": -1689246527, "tol": 1e-4, "solver": "auto",
         "maxBlockSizeInMB": 0.0},
    )  # fmt: skip
    rows = [{"clusterIdx": i, "clusterCenter": _dense(center)} for i, center in enumerate(there.z.tolist())]
    _write_rows(stages[2], rows, ["clusterIdx", "clusterCenter"])
    return [f"prediction i is segment id {there.ids}[i]"]


def _dense(values: list[float]) -> dict[str, Any]:
    return {"type": 1, "size": None, "indices": None, "values": values}


def _write_metadata(path: Path, kind: str, uid: str, params: dict[str, Any], defaults: dict[str, Any]) -> None:
    about = {
        "class": _ML + kind,
        "timestamp": time.time_ns() // 1_000_000,
        "sparkVersion": SPARK_VERSION,
        "uid": uid,
        "paramMap": params,
        "defaultParamMap": defaults,
    }
    folder = path / "metadata"
    folder.mkdir(parents=True)
    (folder / "part-00000").write_text(json.dumps(about) + "\n", encoding="utf-8")
    (folder / "_SUCCESS").touch()


def _write_rows(path: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """With Spark's own schema in the footer: without it Spark sees structs where it wants vectors, and refuses them."""
    arrow = _arrow()
    vector = arrow.struct(
        [
            ("type", arrow.int8()),
            ("size", arrow.int32()),
            ("indices", arrow.list_(arrow.int32())),
            ("values", arrow.list_(arrow.float64())),
        ]
    )
    fields = [
        arrow.field(name, arrow.int32(), False) if name == "clusterIdx" else arrow.field(name, vector) for name in names
    ]
    spark = {
        "type": "struct",
        "fields": [_spark_field(one.name, _VECTOR if one.type == vector else "integer", one.nullable) for one in fields],
    }
    schema = arrow.schema(fields).with_metadata({"org.apache.spark.sql.parquet.row.metadata": json.dumps(spark)})
    folder = path / "data"
    folder.mkdir(parents=True)
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), folder / "part-00000.parquet")
    (folder / "_SUCCESS").touch()


def _spark_field(name: str, kind: Any, nullable: bool = True) -> dict[str, Any]:
    return {"name": name, "type": kind, "nullable": nullable, "metadata": {}}


def _spark_array(kind: str) -> dict[str, Any]:
    return {"type": "array", "elementType": kind, "containsNull": False}


_VECTOR = {
    "type": "udt",
    "class": _ML + "linalg.VectorUDT",
    "pyClass": "pyspark.ml.linalg.VectorUDT",
    "sqlType": {
        "type": "struct",
        "fields": [
            _spark_field("type", "byte", False),
            _spark_field("size", "integer"),
            _spark_field("indices", _spark_array("integer")),
            _spark_field("values", _spark_array("double")),
        ],
    },
}

"""Pipelines of a real Spark MLlib come in, and ours are loaded there, with the same label on every row."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from streamseg.interop import from_sklearn, read_mllib, write_mllib
from tests.notebooks import customers, nearest, pipeline
from tests.sparks import installed

ROWS = 5_000
SCRIPT = """
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
customers = spark.read.csv("customers.csv", header=True, inferSchema=True)
raw = VectorAssembler(inputCols=["age", "income", "purchases"], outputCol="raw")
alone = VectorAssembler(inputCols=["age", "income", "purchases"], outputCol="features")
scaled = {"inputCol": "raw", "outputCol": "features"}
kmeans = KMeans().setK(5).setSeed(1)
stages = {
    "standard": [raw, StandardScaler(withMean=True, withStd=True, **scaled), kmeans],
    "without mean": [raw, StandardScaler(**scaled), kmeans],
    "without scaler": [alone, kmeans],
}
for name, parts in stages.items():
    model = Pipeline(stages=parts).fit(customers)
    model.write().save(name)
    model.transform(customers).select("prediction").toPandas().to_csv(f"{name}.csv")
PipelineModel.load("ours").transform(customers).select("prediction").toPandas().to_csv("ours.csv")
"""


@pytest.mark.parametrize("version", ["4.0", "3.5"])
def test_labels_are_the_same_row_by_row_both_ways(tmp_path: Path, version: str) -> None:
    spark = installed(version)
    # As Spark reads it: every decimal of a double.
    customers(ROWS).to_csv(tmp_path / "customers.csv", index=False)
    frame = pd.read_csv(tmp_path / "customers.csv")
    ours = from_sklearn(pipeline())
    write_mllib(ours, tmp_path / "ours")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [spark.python, "script.py"], cwd=tmp_path, env=spark.environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    theirs = {
        path.stem: pd.read_csv(path)["prediction"].to_numpy() for path in tmp_path.glob("*.csv") if path.stem != "customers"
    }
    assert theirs.keys() == {"standard", "without mean", "without scaler", "ours"}
    for name in ("standard", "without mean", "without scaler"):
        model = read_mllib(tmp_path / name)
        assert (model.scaling == "none") == (name == "without scaler")
        assert len(theirs[name]) == ROWS
        assert (nearest(model, frame) == theirs[name]).all(), name
    # Spark counts places; ours are the ids that stand there.
    assert (theirs["ours"] == nearest(ours, frame)).all()

"""The scripts of the notebook's world, and the way of their models through a stream and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.sparks import BRIEF, installed
from tests.tools import tool

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DOCS = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
# Percent: those at a border of two segments are few.
LIKE_THE_NOTEBOOK = 90.0


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 2_000)
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(2_000)],
            "age": (30 + 8 * group + rng.normal(0, 2, 2_000)).round(2),
            "income": (2e4 + 1e4 * (group % 3) + rng.normal(0, 2e3, 2_000)).round(2),
            "purchases": rng.poisson(2 + 3 * (group % 4)),
        }
    )
    frame.to_csv(tmp_path / "customer_data.csv", index=False)
    with (tmp_path / "events.jsonl").open("w") as file:
        for i, row in enumerate(frame.to_dict("records")):
            file.write(json.dumps({**row, "event_time": 1_700_000_000_000 + i}) + "\n")
    return tmp_path


def run(directory: Path, *command: str) -> str:
    known = {name: value for name, value in os.environ.items() if not name.startswith("STREAMSEG_")}
    environment = known | BRIEF | {"PYTHONPATH": str(ROOT), "STREAMSEG_METRICS__PORT": "0"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(heading: str) -> list[str]:
    """Of a section's shell block."""
    section = DOCS.split(f"## {heading}\n")[1].split("\n## ")[0]
    return section.split("```sh\n")[1].split("```")[0].strip().splitlines()


def through_a_stream(shop: Path, heading: str) -> None:
    for command in commands(heading):
        name, *arguments = command.split()
        assert name == "streamseg"
        run(shop, sys.executable, "-W", "ignore", "-m", "streamseg", *arguments)
    tags = [json.loads(line) for line in (shop / "tags.jsonl").read_bytes().splitlines()]
    assert all(tag["segment_id"] is not None for tag in tags)
    *_, said = run(shop, sys.executable, str(EXAMPLES / "compare.py")).splitlines()
    assert said.endswith("customers have the same segment")
    assert float(said.split("%")[0]) >= LIKE_THE_NOTEBOOK, said


def test_a_pipeline_of_scikit_learn(shop: Path) -> None:
    run(shop, sys.executable, "-W", "ignore", str(EXAMPLES / "fit_sklearn.py"))
    through_a_stream(shop, "scikit-learn")
    assert (shop / "segments.skops").stat().st_size > 0


def test_kmeans_of_r(shop: Path) -> None:
    rscript = tool("Rscript")
    run(shop, rscript, "--vanilla", str(EXAMPLES / "fit.R"))
    through_a_stream(shop, "R")
    assert "3 of the start and 2 found since" in run(shop, sys.executable, "-m", "streamseg", "segments")
    run(shop, rscript, "--vanilla", str(EXAMPLES / "label.R"))
    labelled = pd.read_csv(shop / "labelled.csv")
    # Of the stream's segments: those of R, and those that were found since.
    ids = set(pd.read_csv(shop / "segments.csv", index_col=0).index[2:].astype(int))
    assert {1, 2, 3} <= ids
    assert set(labelled["segment"]) <= ids
    assert len(labelled) == 2_000


def test_a_pipeline_of_spark(shop: Path) -> None:
    python = installed().python
    run(shop, python, str(EXAMPLES / "fit_spark.py"))
    through_a_stream(shop, "Spark MLlib")
    load = (
        "from pyspark.sql import SparkSession; from pyspark.ml import PipelineModel; "
        "s = SparkSession.builder.master('local[2]').getOrCreate(); "
        "x = s.read.csv('customer_data.csv', header=True, inferSchema=True); "
        "PipelineModel.load('segments-model').transform(x).select('prediction').toPandas().to_csv('labels.csv')"
    )
    run(shop, python, "-c", load)
    assert len(set(pd.read_csv(shop / "labels.csv")["prediction"])) >= 4

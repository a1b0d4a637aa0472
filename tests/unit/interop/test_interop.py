"""Models of scikit-learn, R and Spark MLlib in and out, ONNX out: the same labels, row by row."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skops.io as skops_io
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamseg import Segmenter
from streamseg.core.model.model_file import load_fitted
from streamseg.errors import ConfigError
from streamseg.interop import (
    from_sklearn,
    read_mllib,
    read_r,
    read_sklearn,
    to_sklearn,
    write_mllib,
    write_onnx,
    write_r,
    write_sklearn,
)
from tests.commands import ran, streamseg
from tests.notebooks import COLUMNS, FRAME, customers, nearest, pipeline
from tests.tools import tool


def test_a_pipeline_of_scikit_learn_comes_in_and_goes_out_with_the_same_labels(tmp_path: Path) -> None:
    theirs = pipeline()
    skops_io.dump(theirs, tmp_path / "theirs.skops")
    model = read_sklearn(tmp_path / "theirs.skops")
    assert (nearest(model, FRAME) == theirs.predict(FRAME)).all()
    segmenter = Segmenter(features=tuple(COLUMNS), n_segments=5, start=model)
    assert (segmenter.predict_many(FRAME).to_numpy() == theirs.predict(FRAME)).all()
    assert [segment.size for segment in model.segments] == np.bincount(theirs[-1].labels_).tolist()
    assert write_sklearn(model, tmp_path / "ours.skops") == []
    ours = skops_io.load(tmp_path / "ours.skops", trusted=[])
    assert (ours.predict(FRAME) == theirs.predict(FRAME)).all()


def test_kmeans_without_a_scaler_is_a_model_of_unit_scale() -> None:
    alone = KMeans(3, random_state=0).fit(FRAME)
    model = from_sklearn(alone)
    assert model.scaling == "none"
    assert (nearest(model, FRAME) == alone.predict(FRAME)).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_onnx_gives_the_same_labels(tmp_path: Path, precision: Any) -> None:
    model = from_sklearn(pipeline())
    write_onnx(model, tmp_path / "m.onnx", precision=precision)
    session = onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": FRAME.to_numpy().astype(precision)})[0]
    differ = int((labels != nearest(model, FRAME)).sum())
    assert differ <= (0 if precision == "float64" else 20)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["streamseg.segment_ids"]) == [0, 1, 2, 3, 4]
    assert "stickiness" in about["streamseg.not_in_it"]


R_FIT = """
x <- read.csv("customers.csv")
set.seed(1)
s <- scale(x)
km <- kmeans(s, centers = 3)
saveRDS(km, "km.rds"); saveRDS(s, "scaled.rds")
write.csv(rbind(scaled.center = attr(s, "scaled:center"), scaled.scale = attr(s, "scaled:scale"), km$centers), "from-r.csv")
write.csv(data.frame(cluster = km$cluster), "labels.csv", row.names = FALSE)
"""


def r(directory: Path, script: str) -> None:
    (directory / "script.R").write_text(script)
    subprocess.run([tool("Rscript"), "--vanilla", "script.R"], cwd=directory, check=True, timeout=120)


def test_real_r_gives_its_model_and_takes_ours(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "customers.csv", index=False)
    r(tmp_path, R_FIT)
    theirs = pd.read_csv(tmp_path / "labels.csv")["cluster"].to_numpy()
    for model in (read_r(tmp_path / "from-r.csv"), read_r(tmp_path / "km.rds", tmp_path / "scaled.rds")):
        assert [segment.id for segment in model.segments] == [1, 2, 3]
        assert (nearest(model, FRAME) == theirs).all()
    ours = from_sklearn(pipeline())
    write_r(ours, tmp_path / "ours.csv")
    r(
        tmp_path,
        'source("ours.R"); x <- read.csv("customers.csv"); write.csv(data.frame(id = segment_of(x, "ours.csv")), "ids.csv")',
    )
    assert (pd.read_csv(tmp_path / "ids.csv")["id"].to_numpy() == nearest(ours, FRAME)).all()


def test_a_table_of_centers_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    model = from_sklearn(pipeline())
    write_r(model, tmp_path / "m.csv")
    assert (nearest(read_r(tmp_path / "m.csv"), FRAME) == nearest(model, FRAME)).all()


def test_a_folder_of_spark_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    model = from_sklearn(pipeline())
    write_mllib(model, tmp_path / "spark")
    again = read_mllib(tmp_path / "spark")
    assert (nearest(again, FRAME) == nearest(model, FRAME)).all()
    assert [feature.name for feature in again.features] == COLUMNS
    with pytest.raises(ConfigError, match="is there already"):
        write_mllib(model, tmp_path / "spark")


def damaged(tmp_path: Path, change: Any) -> Path:
    write_mllib(from_sklearn(pipeline()), tmp_path / "spark")
    stage = next((tmp_path / "spark" / "stages").glob("2_*"))
    change(stage)
    return tmp_path / "spark"


def cosine(stage: Path) -> None:
    part = stage / "metadata" / "part-00000"
    part.write_text(part.read_text().replace('"euclidean"', '"cosine"'))


def another(stage: Path) -> None:
    part = stage / "metadata" / "part-00000"
    part.write_text(part.read_text().replace("clustering.KMeansModel", "clustering.GaussianMixtureModel"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cosine, "by cosine"),
        (another, "has no counterpart"),
        (lambda stage: shutil.rmtree(stage / "data"), "is damaged"),
        (lambda stage: shutil.rmtree(stage / "metadata"), "is damaged"),
        (lambda stage: (stage / "metadata" / "part-00000").write_text("{"), "is damaged"),
    ],
)
def test_a_folder_that_is_no_model_says_what_to_do(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read_mllib(damaged(tmp_path, change))
    assert error.value.hint


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make_pipeline(StandardScaler(), LinearRegression()), "a pipeline of StandardScaler and KMeans is wanted"),
        (make_pipeline(StandardScaler(), KMeans(3)), "not fitted"),
        (make_pipeline(StandardScaler(), KMeans(1, n_init=1)).fit(FRAME[:50]), "1 segments of 3 features"),
        (make_pipeline(StandardScaler(), KMeans(3)).fit(FRAME[:50].to_numpy()), "knows no names"),
    ],
)
def test_what_is_no_model_of_ours_says_what_to_do(model: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        from_sklearn(model)
    assert error.value.hint


def test_a_pickle_is_loaded_only_on_demand(tmp_path: Path) -> None:
    joblib.dump(pipeline(), tmp_path / "p.pkl")
    with pytest.raises(ConfigError, match="none of skops") as error:
        read_sklearn(tmp_path / "p.pkl")
    assert "--trust-pickle" in error.value.hint
    assert len(read_sklearn(tmp_path / "p.pkl", trust_pickle=True).segments) == 5
    (tmp_path / "n.pkl").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no pickle either"):
        read_sklearn(tmp_path / "n.pkl", trust_pickle=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no table of centers"),
        ('"","a"\n"scaled.center",0\n"scaled.scale",0\n"1",1\n"2",2\n', "a scale is not above 0"),
        ('"","a"\n"1",x\n"2",2\n', "no number"),
        ('"","a"\n"one",1\n"two",2\n', "named by the clusters' numbers"),
        ('"","a"\n"1",1\n"1",2\n', "the same name"),
        ('"","a"\n"1",NaN\n"2",2\n', "no finite number"),
    ],
)
def test_a_table_that_is_no_model_says_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        read_r(tmp_path / "m.csv")
    assert error.value.hint


def write_events(path: Path, frame: pd.DataFrame) -> None:
    with path.open("w") as file:
        for i, row in enumerate(frame.to_dict("records")):
            file.write(json.dumps({"customer_id": f"c{i}", "event_time": 1_700_000_000_000 + i, **row}) + "\n")


def test_from_a_pipeline_to_a_stream_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = pipeline()
    skops_io.dump(theirs, "theirs.skops")
    write_events(tmp_path / "events.jsonl", FRAME[:3_000])
    assert "5 segments of age, income, purchases" in ran("import", "sklearn", "theirs.skops", "-o", "model.json")
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", "--start", "model.json", "--set", "metrics.port=0")
    tags = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_bytes().splitlines()]
    first = [tag["segment_id"] for tag in tags[:500]]
    assert first == theirs.predict(FRAME[:500]).tolist(), "the stream keeps their ids"
    assert "wrote 5 segments" in ran("export", "--to", "sklearn", "-o", "ours.skops")
    ours = skops_io.load("ours.skops", trusted=[])
    ran("export", "--to", "json", "-o", "now.json")
    now = load_fitted((tmp_path / "now.json").read_bytes())
    assert (ours.predict(FRAME) == nearest(now, FRAME)).all()
    same = float((ours.predict(FRAME) == theirs.predict(FRAME)).mean())
    assert same > 0.97, "centers have moved to the customers of the stream, and no farther"


def test_logarithms_and_weights_travel_where_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = customers(2_000, seed=3)
    frame["purchases"] = np.expm1(frame["purchases"] / 3)
    write_events(tmp_path / "events.jsonl", frame)
    features = 'features=[{name="age",weight=2.0},{name="income"},{name="purchases",transform="log1p"}]'
    settings = ("--set", features, "--set", "metrics.port=0", "--set", "model.segments=4")
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *settings)
    ran("export", "--to", "json", "-o", "m.json", *settings)
    model = load_fitted((tmp_path / "m.json").read_bytes())
    logged = frame.assign(purchases=np.log1p(frame["purchases"]))
    with_log = to_sklearn(model)
    assert (np.array(with_log[-1].segment_ids_)[with_log.predict(frame)] == nearest(model, logged)).all()
    refused = streamseg("export", "--to", "mllib", "-o", "spark", *settings)
    assert refused.exit_code == 2
    assert "purchases count by their logarithms" in refused.stderr
    ran("export", "--to", "mllib", "--as-is", "-o", "spark", *settings)
    assert (nearest(read_mllib(tmp_path / "spark"), logged) == nearest(model, logged)).all()


def test_a_model_without_scaling_runs_without_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = KMeans(3, random_state=0).fit(FRAME)
    skops_io.dump(alone, "alone.skops")
    write_events(tmp_path / "events.jsonl", FRAME[:1_000])
    assert "--set model.scaling=none" in ran("import", "sklearn", "alone.skops")
    refused = streamseg("run", "-i", "events.jsonl", "-o", "tags.jsonl", "--start", "model.json")
    assert refused.exit_code == 2
    assert "set model.scaling = 'none'" in refused.stderr
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", "--start", "model.json", "--set", "model.scaling=none")
    tags = [json.loads(line)["segment_id"] for line in (tmp_path / "tags.jsonl").read_bytes().splitlines()]
    assert tags[:300] == alone.predict(FRAME[:300]).tolist()

"""river's own clusterers in place of the built-in model, in real processes: killed, started again, verified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exploring import some
from tests.harness import shoppers, write_lines
from tests.waiting import until

MODELS = """
from river import cluster, preprocessing


def kmeans():
    return preprocessing.StandardScaler() | cluster.KMeans(n_clusters=3, halflife=0.05, sigma=2, seed=1)


def dbstream():
    return preprocessing.StandardScaler() | cluster.DBSTREAM(clustering_threshold=1.0, fading_factor=0.001)


def clustream():
    clusters = cluster.CluStream(n_macro_clusters=3, max_micro_clusters=30, time_gap=200, seed=1)
    return preprocessing.StandardScaler() | clusters
"""
ROWS = 6_000


def command(directory: Path, name: str, model: str, verb: str) -> list[str]:
    files = ["--input", str(directory / "events.jsonl"), "--output", str(directory / f"{name}.jsonl")]
    return [
        sys.executable, "-m", "streamseg", verb, *(files if verb == "run" else []), "--state", str(directory / f"{name}.db"),
        "--set", f"model.factory=shop_models:{model}", "--set", "input.batch_records=500", "--set", "model.warm_up=200",
    ]  # fmt: skip


def labels(path: Path) -> list[tuple[str, int | None]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(tag["customer_id"], tag["segment_id"]) for tag in map(json.loads, lines)]


@pytest.mark.parametrize("model", some(["kmeans", "dbstream", "clustream"]))
def test_a_kill_and_a_start_change_nothing_and_verify_agrees(model: str, tmp_path: Path) -> None:
    (tmp_path / "shop_models.py").write_text(MODELS, encoding="utf-8")
    write_lines(tmp_path / "events.jsonl", shoppers(ROWS, customers=400))
    # Left to itself, Python would give the names of features other hashes in each process.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}

    def run(name: str, verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(tmp_path, name, model, verb), cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )

    run("clean", "run")
    tags = tmp_path / "killed.jsonl"
    process = subprocess.Popen(command(tmp_path, "killed", model, "run"), cwd=tmp_path, env=environment)
    until(lambda: process.poll() is not None or (tags.exists() and tags.stat().st_size > 500_000), "no tags")
    assert process.poll() is None, "it was done before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("killed", "run")

    assert labels(tags) == labels(tmp_path / "clean.jsonl")
    tagged = [segment for _, segment in labels(tags) if segment is not None]
    assert len(tagged) > ROWS // 2
    assert len(set(tagged)) > 1
    told = run("killed", "verify").stdout
    assert f"{ROWS:,} records derived again" in told

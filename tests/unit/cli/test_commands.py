"""Commands as a user meets them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import IO

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from streamseg.cli.main import app
from streamseg.cli.run import served
from streamseg.config import Config
from streamseg.config.sections import InputConfig, MetricsConfig
from streamseg.engine.events import Waiting
from streamseg.errors import ConfigError
from tests.commands import FEW, process, ran, streamseg
from tests.harness import Recorder, shoppers, write_lines
from tests.waiting import until


def tagged(here: Path) -> None:
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW)


def test_run_writes_tags_and_json_log_lines(here: Path) -> None:
    result = streamseg("run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW)
    assert result.exit_code == 0
    logged = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["event"] for line in logged] == ["started", "progress", "model_started", "stopped"] or {
        line["event"] for line in logged
    } >= {"started", "model_started", "stopped"}
    assert logged[-1]["events"] == 401
    assert len((here / "tags.jsonl").read_bytes().splitlines()) == 440


def test_segments_explain_and_verify_read_a_state(here: Path) -> None:
    tagged(here)
    found = json.loads(ran("segments", "--json", *FEW))
    assert sum(segment["size"] for segment in found) == 40
    assert "share" in ran("segments", *FEW)
    said = json.loads(ran("explain", "c7", "--json", *FEW))
    assert said["status"] == "tagged"
    assert said["segment_name"] in {segment["name"] for segment in found}
    text = ran("explain", "c7", *FEW)
    assert "margin" in text
    assert "because" in text
    assert "waits: income, purchases not known yet" in ran("explain", "waits", *FEW)
    assert "401 records" in ran("verify", *FEW)
    assert json.loads(ran("verify", "--json", *FEW))["batches"] == 3


def test_verify_does_not_claim_what_it_could_not_compare(here: Path) -> None:
    tagged(here)
    (here / "events.jsonl").unlink()
    result = streamseg("verify", *FEW)
    assert result.exit_code == 3
    assert "0 records derived again" in result.output
    assert "from offset 0 on is gone" in result.stderr


def test_a_feature_that_no_event_has_is_named(here: Path) -> None:
    result = streamseg("run", "-i", "events.jsonl", "-o", "t.jsonl", "--set", 'features=[{name="age"},{name="spned"}]')
    assert result.exit_code == 0
    assert "0 of 41 customers have all features" in result.stderr
    assert "no event had: spned" in result.stderr


def test_verify_exits_with_three_on_a_difference(here: Path) -> None:
    tagged(here)
    path = here / "tags.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"margin":', b'"margon":', 1))
    result = streamseg("verify", *FEW)
    assert result.exit_code == 3
    assert "a tag is not what its event gives" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "-i", "none.jsonl", "-o", "t.jsonl"], 2, "no input file"),
        (["run"], 2, "--input"),
        (["run", "-i", "events.jsonl", "--set", "model.segmnets=3"], 2, "unknown key"),
        (["run", "-i", "events.jsonl", "--start", "none.json"], 2, "cannot read the model file"),
        (["run", "-i", "events.jsonl", "--start", "events.jsonl"], 2, "is no model file"),
        (["segments", "--state", "none.db"], 2, "no state file"),
        (["explain", "x", "--state", "none.db"], 2, "no state file"),
        (["schema", "nothing"], 2, "nothing"),
        (["run", "-i", ".", "-o", "t.jsonl"], 2, "is a directory"),
        (["run", "-i", "events.jsonl", "-o", "t.jsonl", "--state", "."], 2, "is a directory"),
        (["run", "-i", "odd.txt"], 2, "cannot tell what"),
        (["run", "-i", "odd.parquet", "-o", "t.jsonl"], 2, "cannot read Parquet"),
        (["run", "-i", "events.jsonl", "--set", 'features=[{name="a",aggregate="foo"}]'], 2, "features.0.aggregate"),
        (["fit", "events.jsonl", "-k", "0"], 2, "Error"),
        (["fit", "none.csv"], 2, "no file"),
    ],
)
def test_errors_say_what_and_have_their_exit_code(here: Path, arguments: list[str], code: int, message: str) -> None:
    for odd in ("odd.txt", "odd.parquet"):
        (here / odd).write_text("odd")
    result = streamseg(*arguments)
    assert result.exit_code == code
    assert message in result.output + result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_a_change_of_features_is_refused_with_what_to_do(here: Path) -> None:
    tagged(here)
    result = streamseg("run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW, "--set", 'features=[{name="age"}]')
    assert result.exit_code == 2
    assert "features.income" in result.stderr
    assert "another --state" in result.stderr


def test_an_unknown_customer_is_said(here: Path) -> None:
    tagged(here)
    result = streamseg("explain", "nobody", *FEW)
    assert result.exit_code == 2
    assert "knows no customer 'nobody'" in result.stderr


def test_pipes_carry_events_and_tags(here: Path) -> None:
    with process("run", "-i", "-", "-o", "-", *FEW, cwd=here) as running:
        out, _ = running.communicate((here / "events.jsonl").read_bytes() + b"{broken\n", timeout=120)
    assert running.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert len([line for line in lines if line["source"]]) == 400
    assert len([line for line in lines if not line["source"]]) == 40
    assert "{broken" in (here / "streamseg.dead-letters.jsonl").read_text()
    assert "tags" in ran("verify", *FEW)


def test_a_reader_that_goes_away_is_no_disaster_and_what_it_missed_comes_again(here: Path) -> None:
    with process("run", "-i", "-", "-o", "-", *FEW, cwd=here) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stdin is not None
        running.stdin.write((here / "events.jsonl").read_bytes())
        running.stdin.close()
        assert running.wait(timeout=120) == 5
    with process("run", "-i", "-", "-o", "-", *FEW, cwd=here) as again:
        out, _ = again.communicate(b"", timeout=120)
    offsets = [json.loads(line)["source"]["offset"] for line in out.splitlines() if json.loads(line)["source"]]
    assert sorted(offsets) == list(range(400))


def feed_until_model_starts(running: subprocess.Popen[bytes], here: Path) -> IO[bytes]:
    """Give a job all events; returns its standard input, still open, once its log says that there is a model."""
    assert running.stdin is not None
    assert running.stderr is not None
    running.stdin.write((here / "events.jsonl").read_bytes())
    running.stdin.flush()
    while b'"model_started"' not in (line := running.stderr.readline()):
        assert line
    return running.stdin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_finish_the_batch_and_exit_with_zero(here: Path, number: signal.Signals) -> None:
    with process("run", "-i", "-", "-o", "tags.jsonl", *FEW, cwd=here) as running:
        stdin = feed_until_model_starts(running, here)
        running.send_signal(number)
        assert running.wait(timeout=60) == 0
        stdin.close()
    assert json.loads(ran("verify", "--json", *FEW))["records"] == 401


def test_the_state_can_be_read_while_the_job_runs(here: Path) -> None:
    with process("run", "-i", "-", "-o", "tags.jsonl", *FEW, cwd=here) as running:
        stdin = feed_until_model_starts(running, here)
        assert "c7" in ran("explain", "c7", "--json", *FEW)
        assert len(json.loads(ran("segments", "--json", *FEW))) == 3
        stdin.close()
        assert running.wait(timeout=60) == 0


def test_a_flag_that_names_a_file_means_files_whatever_the_environment_says(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSEG_INPUT__TRANSPORT", "kafka")
    monkeypatch.setenv("STREAMSEG_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", "--state", "files.db")
    assert "verified" in ran("verify", "--state", "files.db")


def test_fit_does_what_scikit_learn_does(here: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 3)) * [10, 1e4, 3] + [40, 5e4, 9], columns=["age", "income", "purchases"])
    frame.insert(0, "customer_id", range(300))
    frame.loc[17, "income"] = np.nan
    frame.to_csv("customers.csv", index=False)
    said = ran("fit", "customers.csv", "--segments", "5", "-o", "model.json")
    assert "299 customers, 1 left out" in said
    x = frame[["age", "income", "purchases"]].dropna()
    batch = KMeans(n_clusters=5, random_state=0).fit(StandardScaler().fit_transform(x))
    model = json.loads(Path("model.json").read_bytes())
    assert model["inertia"] == pytest.approx(batch.inertia_, rel=1e-9)
    assert model["version"] == 1
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", "--start", "model.json")
    first = json.loads((here / "tags.jsonl").read_bytes().splitlines()[0])
    assert first["reason"] == "event"
    assert first["segment_id"] in range(5)
    ran("verify", "--set", "model.start=model.json")
    assert len(json.loads(ran("segments", "--json"))) == 5


def test_fit_tells_means_of_logarithmic_features_in_the_users_units(here: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"spend": np.exp(rng.normal(4.0, 1.5, 300)).round(2)})
    frame.to_csv("customers.csv", index=False)
    said = ran("fit", "customers.csv", "-k", "2", "-o", "m.json", "--set", 'features=[{name="spend",transform="log1p"}]')
    assert "spend: arithmetic means" in said
    segments = json.loads(Path("m.json").read_bytes())["segments"]
    border = np.mean([segment["center"]["spend"] for segment in segments])
    members = frame.spend.groupby(np.log1p(frame.spend) > border)
    assert sorted(segment["mean"]["spend"] for segment in segments) == pytest.approx(sorted(members.mean()), rel=1e-9)


def test_a_model_of_other_features_does_not_start_a_run(here: Path) -> None:
    pd.DataFrame({"age": range(20), "x": range(20)}).to_csv("c.csv", index=False)
    ran("fit", "c.csv", "-k", "2", "-o", "m.json", "--set", 'features=[{name="age"},{name="x"}]')
    result = streamseg("run", "-i", "events.jsonl", "-o", "t.jsonl", "--start", "m.json")
    assert result.exit_code == 2
    assert "fitted without the feature 'income'" in result.stderr
    more = streamseg("run", "-i", "events.jsonl", "-o", "t.jsonl", "--start", "m.json", "--set", 'features=[{name="age"}]')
    assert more.exit_code == 2
    assert "fitted with the feature 'x' too" in more.stderr


def test_init_writes_a_configuration_that_works(here: Path) -> None:
    assert "wrote" in ran("init")
    assert streamseg("init").exit_code == 2
    schema = json.loads(Path("streamseg.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    shown = json.loads(ran("config", "show", "--origin", "--json"))
    assert shown["model.seed"] == {"value": 0, "origin": "streamseg.toml"}
    assert shown["input.path"] == {"value": None, "origin": "default"}
    assert "flag" in ran("config", "show", "--origin", "--set", "model.seed=3")


@pytest.mark.parametrize("what", ["event", "assignment", "segment", "dead-letter"])
def test_schema_prints_a_schema(what: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(ran("schema", what)))


def test_the_version_is_printed() -> None:
    assert ran("--version").strip() == "0.1.0"


def test_readers_take_the_number_of_segments_from_the_state(here: Path) -> None:
    pd.DataFrame({"age": range(40), "income": range(40), "purchases": range(40)}).to_csv("c.csv", index=False)
    ran("fit", "c.csv", "-k", "4", "-o", "m.json")
    ran("run", "-i", "events.jsonl", "-o", "t.jsonl", "--start", "m.json")
    assert len(json.loads(ran("segments", "--json"))) == 4
    ran("run", "-i", "events.jsonl", "-o", "t.jsonl")
    ran("verify")


def test_a_replay_prints_both_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "events.jsonl", shoppers(800))
    command = ["replay", "-i", "events.jsonl", "--set", "model.segments=2"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["figures"]["events"] == {"now": 800, "tried": 800}
    assert said["figures"]["segments"]["tried"] == len(said["segments"]["tried"]) == 2
    assert sum(move["customers"] for move in said["moves"]) == 40
    assert "loss" in CliRunner().invoke(app, command).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-i", "events.jsonl"], "say what to try"),
        (["-i", "events.jsonl", "--set", "model.seed=0"], "the current ones"),
        (["-i", "-", "--set", "model.seed=1"], "read again"),
        (["--set", "model.seed=1"], "--input FILE"),
    ],
)
def test_a_replay_of_nothing_says_what_it_needs(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "events.jsonl", shoppers(10))
    done = CliRunner().invoke(app, ["replay", *flags])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_taken_port_of_metrics_is_an_error_at_the_start_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "events.jsonl", shoppers(100))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW]
        done = CliRunner().invoke(app, [*command, "--set", f"metrics.port={port}"])
        assert done.exit_code == 2
        assert f"127.0.0.1:{port}" in done.output
        assert "metrics.port" in done.output
        assert not (tmp_path / "tags.jsonl").exists()
        # As if it were the default: nobody asked for that port, and several jobs on files may run beside each other.
        unasked = Config().model_copy(update={"metrics": MetricsConfig.model_construct(set(), port=port)})
        recorder = Recorder()
        assert served(unasked, recorder, None) is None
        assert "cannot serve metrics" in recorder.of(Waiting)[0].message
        on_kafka = unasked.model_copy(update={"input": InputConfig(transport="kafka")})
        with pytest.raises(ConfigError, match=r"cannot serve metrics"):
            served(on_kafka, recorder, None)


def test_a_run_serves_its_metrics_while_it_lasts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamseg", "run", "-i", "-", "-o", "tags.jsonl", *FEW, "--set", f"metrics.port={port}"],
        cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"".join((value or b"") + b"\n" for _, value, _ in shoppers(200)))
    process.stdin.flush()

    def page(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    until(lambda: 'events_total{outcome="assigned"}' in page("/metrics") and page("/readyz") == "ok\n", "it serves")
    until(lambda: '"next_offset": 200' in page("/status"), "it tells where it stands")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert page("/livez") == ""


def test_drift_is_told_against_a_table_of_customers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "events.jsonl", shoppers(1_500, customers=400))
    rng = np.random.default_rng(0)
    table = {"age": rng.normal(90, 2, 300), "income": rng.normal(1e3, 8e2, 300), "purchases": rng.random(300)}
    pd.DataFrame(table).to_csv("customers.csv", index=False)
    done = CliRunner().invoke(app, ["run", "-i", "events.jsonl", "-o", "tags.jsonl", *FEW, "--log", "json"])
    assert done.exit_code == 0, done.output
    own = CliRunner().invoke(app, ["segments", *FEW])
    assert "no drift" in own.stdout
    against = CliRunner().invoke(app, ["segments", *FEW, "--set", "metrics.reference=customers.csv"])
    assert "drift against the 300 customers of the reference: age" in " ".join(against.stdout.split())
    missing = CliRunner().invoke(app, ["segments", *FEW, "--set", "metrics.reference=none.csv"])
    assert missing.exit_code == 2
    assert "none.csv" in missing.output

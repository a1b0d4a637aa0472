"""What people do wrong, or find surprising, in their first hour."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from streamseg.application.demo_data import CONFIG_FILE, write_demo
from streamseg.errors import ConfigError
from tests.broker import free_port
from tests.commands import FEW, ROOT, ran, streamseg
from tests.harness import event, shoppers, write_lines
from tests.waiting import until

RUN = ("run", "-i", "events.jsonl", "-o", "tags.jsonl")


def last_log(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    return found


@pytest.mark.parametrize("n", range(1, 21))
def test_a_handful_of_customers_is_tagged(here: Path, n: int) -> None:
    write_lines(here / "events.jsonl", [event(f"c{i}", float(i), age=20 + i, income=i * i, purchases=i) for i in range(n)])
    assert streamseg(*RUN).exit_code == 0
    tags = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    assert {tag["customer_id"] for tag in tags} == {f"c{i}" for i in range(n)}
    assert (tags[-1]["segment_id"] is None) == (n < 3), "three that differ make three segments"


def test_events_that_replace_those_that_were_read_are_not_skipped_in_silence(here: Path) -> None:
    ran(*RUN, *FEW)
    write_lines(here / "events.jsonl", shoppers(500, seed=7))
    result = streamseg(*RUN, *FEW)
    assert result.exit_code == 2
    assert "another one than before" in result.stderr
    said = streamseg("doctor", *FEW, "--set", "input.path=events.jsonl", "--set", "output.path=tags.jsonl")
    assert said.exit_code == 2
    assert "another one than before" in said.output


def test_a_job_goes_on_where_its_directory_has_moved(here: Path) -> None:
    (here / "one").mkdir()
    shutil.move(here / "events.jsonl", here / "one")
    os.chdir(here / "one")
    ran(*RUN, *FEW)
    tags = (here / "one" / "tags.jsonl").read_bytes()
    os.chdir(here)
    (here / "one").rename(here / "two")
    os.chdir(here / "two")
    assert last_log(streamseg(*RUN, *FEW))["events"] == 0
    assert (here / "two" / "tags.jsonl").read_bytes() == tags
    ran("verify", *FEW)


def test_an_output_that_is_gone_is_said_and_not_made_anew(here: Path) -> None:
    ran(*RUN, *FEW)
    (here / "tags.jsonl").unlink()
    result = streamseg(*RUN, *FEW)
    assert result.exit_code == 4
    assert "the output file is gone" in result.stderr
    assert not (here / "tags.jsonl").exists()


def test_a_run_without_an_output_says_that_tags_go_nowhere_else(here: Path) -> None:
    result = streamseg("run", "-i", "events.jsonl", *FEW)
    assert any(json.loads(line)["event"] == "no_output" for line in result.stderr.splitlines())


def test_what_became_of_records_that_could_not_be_used_is_said_at_the_end(here: Path) -> None:
    write_lines(here / "events.jsonl", [(None, b"{broken", None), (None, b'{"age": 3}', None), (None, b"[1]", None)])
    result = streamseg(*RUN)
    assert result.exit_code == 7
    (stopped,) = [line for line in map(json.loads, result.stderr.splitlines()[:-2]) if line["event"] == "stopped"]
    assert stopped["dead_letter_codes"] == {"not_json": 1, "missing_customer_id": 1, "not_an_object": 1}
    assert "no record was an event of a customer: dead letters say why" in result.stderr
    assert "no event had" not in result.stderr


def test_readers_take_settings_that_nobody_gives_from_the_state(here: Path) -> None:
    ran(*RUN, "--segments", "3", "--set", "model.warm_up=30", "--set", "model.stickiness=0.1")
    assert len(json.loads(ran("segments", "--json"))) == 3
    assert "segment" in ran("explain", "c1")
    ran("segments", "rename", "0", "Ours")
    assert "Ours" in ran("segments")
    assert json.loads(ran("verify", "--json"))["tags"] > 0
    refused = streamseg("segments", "--set", "model.segments=4")
    assert refused.exit_code == 2
    assert "model.segments (3 there)" in refused.stderr
    assert streamseg(*RUN).exit_code == 2, "who writes has to say what is meant"


def test_readers_take_features_from_the_state(here: Path) -> None:
    features = 'features=[{name="age", transform="log1p"}, {name="income"}]'
    ran(*RUN, *FEW, "--set", features)
    assert json.loads(ran("segments", "--json"))[0]["center"].keys() == {"age", "income"}


def test_the_doctor_and_the_run_agree_about_a_state_of_other_settings(here: Path) -> None:
    ran(*RUN, *FEW)
    files = ("--set", "input.path=events.jsonl", "--set", "output.path=tags.jsonl")
    assert streamseg("doctor", *files, *FEW).exit_code == 0
    refused = streamseg("doctor", *files)
    assert refused.exit_code == 2
    assert "written with other settings: model.segments (3 there)" in " ".join(refused.output.split())


def test_the_doctor_and_the_run_agree_about_an_output_in_a_directory_to_be_made(here: Path) -> None:
    files = ("--set", "input.path=events.jsonl", "--set", "output.path=not/yet/tags.jsonl")
    assert streamseg("doctor", *files).exit_code == 0
    ran("run", "-i", "events.jsonl", "-o", "not/yet/tags.jsonl", *FEW)
    within = streamseg("doctor", "--set", "input.path=events.jsonl", "--set", "output.path=events.jsonl/tags.jsonl")
    assert within.exit_code == 2
    assert "is no directory" in within.output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"customer_id": "a", "event_time": "2023-01-01", "age": 1, "income": 2}, "none has: purchases"),
        ({"customer_id": "a", "event_time": 1500000000, "age": 1, "income": 2, "purchases": 3}, "sample of 3 can be read"),
        (
            {"customer_id": "a", "event_time": 1500000000000, "age": 1, "income": 2, "purchases": 3},
            "sample of 3 can be read",
        ),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_the_doctor_sees_what_events_lack(here: Path, line: dict[str, Any], said: str) -> None:
    (here / "events.jsonl").write_text((json.dumps(line) + "\n") * 3)
    found = streamseg("doctor", "--set", "input.path=events.jsonl", "--set", "output.path=tags.jsonl")
    assert found.exit_code == 0
    assert said in " ".join(found.output.split())


@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_a_seed_that_is_none_is_refused(here: Path, seed: str) -> None:
    pd.DataFrame({"age": range(9), "income": range(9), "purchases": range(9)}).to_csv("c.csv", index=False)
    result = streamseg("fit", "c.csv", "-k", "2", "--seed", seed)
    assert result.exit_code == 2
    assert "--seed" in result.output + result.stderr


def test_fit_leaves_out_what_run_would_not_take(here: Path) -> None:
    ages = [*range(9), 1e200, float("inf"), float("nan")]
    pd.DataFrame({"age": ages, "income": range(12), "purchases": range(12)}).to_csv("c.csv", index=False)
    assert "9 customers, 3 left out, of whom a feature is missing or no measurement" in ran("fit", "c.csv", "-k", "2")


def test_fit_reads_what_it_can_tell_by_its_ending(here: Path) -> None:
    (here / "c.csv.gz").write_bytes(b"\x1f\x8b")
    result = streamseg("fit", "c.csv.gz")
    assert result.exit_code == 2
    assert "cannot tell what 'c.csv.gz' holds by '.gz'" in result.stderr


def test_an_address_that_was_asked_for_and_is_not_there_is_an_error(here: Path) -> None:
    result = streamseg(*RUN, *FEW, "--set", "metrics.address=192.0.2.1", "--set", f"metrics.port={free_port()}")
    assert result.exit_code == 2
    assert "192.0.2.1" in result.stderr


def test_a_reference_that_is_not_there_is_said_with_its_key(here: Path) -> None:
    result = streamseg(*RUN, *FEW, "--set", "metrics.reference=nope.csv")
    assert result.exit_code == 2
    assert "there is no file 'nope.csv' (metrics.reference)" in result.stderr


def test_an_empty_state_file_is_not_called_another_program_s(here: Path) -> None:
    (here / "streamseg.db").write_bytes(b"")
    result = streamseg("segments")
    assert result.exit_code == 2
    assert "the state file is empty, no run has begun with it" in result.stderr
    ran(*RUN, *FEW)


def test_a_difference_says_what_to_do(here: Path) -> None:
    ran(*RUN, *FEW)
    lines = (here / "tags.jsonl").read_bytes()
    (here / "tags.jsonl").write_bytes(lines.replace(b'"segment_id":0', b'"segment_id":1', 1))
    result = streamseg("verify")
    assert result.exit_code == 3
    assert "what to do: somebody else wrote there, or changed it" in result.stderr


def test_the_demo_overwrites_nobody_s_configuration(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("# mine\n")
    with pytest.raises(ConfigError, match="is not the demo's"):
        write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_FILE]


def test_ctrl_c_while_it_loads_is_no_traceback(tmp_path: Path) -> None:
    """Sent when Python has begun to load what is ours."""
    hold = "import os, signal\nprint('loading', flush=True)\nsignal.pause()\n"
    (tmp_path / "typer.py").write_text(hold)
    command = [sys.executable, "-m", "streamseg", "verify"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"loading\n"
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert said == b""
    assert running.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "flag",
    [
        "kafka.password=correct-horse",
        "kafka={password='correct-horse'}",
        "kafka.proxy_url=socks5://me:correct-horse@proxy:1080",
        "kafka={proxy_url='socks5://me:correct-horse@proxy:1080'}",
    ],
)
def test_a_credential_on_a_command_line_is_refused_and_not_repeated(here: Path, flag: str) -> None:
    result = streamseg("run", "--input", "events.jsonl", "--output", "tags.jsonl", "--set", flag)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "a password does not go on a command line" in said
    assert "STREAMSEG_KAFKA__P" in said
    assert "correct-horse" not in said
    assert not (here / "streamseg.db").exists()


def rows(n: int, first: int = 0) -> str:
    return "".join(
        f"c{i % 40},2024-01-01T{i // 60 % 24:02d}:{i % 60:02d}:00Z,{i % 40},{i % 7}\n" for i in range(first, first + n)
    )


TABLE = ("--set", 'features=[{name="age"},{name="visits"}]', "--set", "model.warm_up=20", "--set", "metrics.port=0")


def test_a_whole_input_that_fails_is_reported_once_with_what_is_likely_meant(here: Path) -> None:
    lines = "".join(json.dumps({"user_id": i, "date": "2024-01-01", "age": 1, "visits": 2}) + "\n" for i in range(2_500))
    (here / "events.jsonl").write_text(lines)
    result = streamseg(*RUN, *TABLE, "--set", "input.batch_records=500")
    assert result.exit_code == 7
    found = [line for line in map(json.loads, result.stderr.splitlines()[:-2]) if line["event"] == "input_rejected"]
    assert [(line["code"], line["field"]) for line in found] == [("missing_customer_id", "customer_id")]
    assert "is it 'user_id'? Set input.customer_id = 'user_id'" in found[0]["message"]
    assert "none of 2,500 records could be used" in result.stderr
    assert len((here / "tags.dead-letters.jsonl").read_bytes().splitlines()) == 2_500
    stopped = streamseg("run", "-i", "events.jsonl", "-o", "other.jsonl", "--state", "other.db", *TABLE,
                        "--set", "input.batch_records=500", "--set", "input.stop_when_all_fail=true")  # fmt: skip
    assert stopped.exit_code == 7
    assert len((here / "other.dead-letters.jsonl").read_bytes().splitlines()) == 1_000


def test_a_last_row_that_has_grown_since_it_was_read_is_named(here: Path) -> None:
    run_it = ("run", "-i", "e.csv", "-o", "tags.jsonl", *TABLE)
    whole = "customer_id,event_time,age,visits\n" + rows(100)
    (here / "e.csv").write_text(whole.removesuffix("1\n"))
    (here / "e.csv").write_text("customer_id,event_time,age,visits\n" + rows(99) + "c9,2024-01-02T00:00:00Z,30,1")
    ran(*run_it)
    assert last_log(streamseg(*run_it))["reason"] == "input_ended", "an unchanged file goes on"
    with (here / "e.csv").open("a") as file:
        file.write("250\n")
    for said in (
        streamseg(*run_it),
        streamseg("doctor", "--set", "input.path=e.csv", "--set", "output.path=tags.jsonl", *TABLE),
    ):
        assert said.exit_code == 2
        text = " ".join(said.output.split())
        assert "row 100 of the input had no line end" in text
        assert '"visits":1}' in text
        assert '"visits":1250}' in text
        assert "--follow" in text
    (here / "e.csv").write_text(
        "customer_id,event_time,age,visits\n" + rows(99) + "c9,2024-01-02T00:00:00Z,30,1\n" + rows(10, 100)
    )
    ran(*run_it)
    tags = [json.loads(line) for line in (here / "tags.jsonl").read_bytes().splitlines()]
    assert [tag["source"]["offset"] for tag in tags if tag["reason"] == "event" and tag["source"]][-1] == 109
    assert "0 differences" in ran("verify", *TABLE) or ran("verify", *TABLE)


def test_a_file_is_followed_until_the_job_is_stopped(here: Path) -> None:
    path = here / "e.csv"
    path.write_text("customer_id,event_time,age,visits\n" + rows(99) + "c9,2024-01-02T00:00:00Z,30,")
    command = [
        sys.executable,
        "-m",
        "streamseg",
        "run",
        "-i",
        "e.csv",
        "-o",
        "tags.jsonl",
        "--follow",
        "--log",
        "json",
        *TABLE,
    ]
    with subprocess.Popen(command, cwd=here, env=dict(os.environ, PYTHONPATH=str(ROOT)), stderr=subprocess.DEVNULL) as job:
        try:
            until(lambda: n_lines(here / "tags.jsonl") >= 99, "the whole rows are tagged")
            with path.open("a") as file:
                file.write("12\n" + rows(50, 100))
            until(lambda: n_lines(here / "tags.jsonl") >= 150, "what was appended is tagged")
            job.send_signal(signal.SIGTERM)
            assert job.wait(60) == 0
        finally:
            job.kill()
    assert (here / "tags.dead-letters.jsonl").read_bytes() == b""
    ran("verify", *TABLE)
    (completed,) = [
        line
        for line in (here / "tags.jsonl").read_text().splitlines()
        if json.loads(line)["event_time"] == "2024-01-02T00:00:00.000000Z"
    ]
    assert json.loads(completed)["customer_id"] == "c9"


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_readers_know_the_state_whatever_a_file_of_settings_says(here: Path) -> None:
    ran("init", "--template", "rfm")
    lines = [event(f"c{i % 50}", float(i), amount=float(i % 7)) for i in range(400)]
    write_lines(here / "purchases.jsonl", lines)
    ran("run", "-i", "purchases.jsonl", "-o", "tags.jsonl", "--segments", "3", "--set", "model.warm_up=30")
    assert len(json.loads(ran("segments", "--json"))) == 3
    assert "segment" in ran("explain", "c1")
    ran("verify")


def test_an_input_of_which_nothing_is_meant_says_so(here: Path) -> None:
    result = streamseg(*RUN, *FEW, "--set", 'input.where={type="order"}')
    assert result.exit_code == 7
    assert "records was used" in result.stderr
    assert "dropped by input.where" in result.stderr

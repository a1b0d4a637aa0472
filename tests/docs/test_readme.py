"""What README and docs say works: every command runs, every setting exists, every field and code is listed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamseg.application.wiring import open_reader
from streamseg.cli.main import app
from streamseg.config import Config, flat_keys, load
from streamseg.errors import ConfigError, DeadLetterCode
from streamseg.formats.outputs import Assignment
from tests.broker import new_name
from tests.harness import shoppers, write_lines
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def marked(marker: str) -> Iterator[str]:
    """Code blocks behind a marker."""
    for match in re.finditer(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```", ALL, re.DOTALL):
        yield match[1]


# Another process of the test run may hold the default port.
PORT = {"STREAMSEG_METRICS__PORT": "0"}


def shell(command: str, directory: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory, env=os.environ | PORT | {"PATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def committed(settings: dict[str, str], servers: str) -> dict[int, int]:
    """By partition, events of an application that are done; none while it has not begun."""
    flags = settings | {"input.transport": "kafka", "kafka.bootstrap_servers": servers}
    try:
        reader = open_reader(load(None, flags, {}).config)
    except ConfigError:
        return {}
    with closing(reader):
        return {p: there.next_offset for p, there in reader.committed().items()}


@pytest.fixture(scope="module", name="demo")
def _demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    (command,) = marked("command: demo")
    shell(command.split("&&")[1], directory)
    return directory / "streamseg-demo"


@pytest.mark.xdist_group("demo")
def test_the_demo_tags_real_customers_and_the_commands_after_it_run(demo: Path) -> None:
    lines = (demo / "tags.jsonl").read_bytes().splitlines()
    sources = [json.loads(line)["source"] for line in lines]
    assert sum(source is not None for source in sources) == 155_848
    (commands,) = marked("run: in streamseg-demo")
    said = shell(commands, demo)
    assert "155,848 records" in said
    assert "because" in said


def test_the_commands_on_your_own_files_run(tmp_path: Path) -> None:
    shell("streamseg demo --write shop", tmp_path)
    shop = tmp_path / "shop"
    assert len((shop / "customer_data.csv").read_text().splitlines()) == 802
    events = (shop / "events.jsonl").read_bytes().splitlines(keepends=True)
    assert len(events) == 155_848
    (shop / "events.jsonl").write_bytes(b"".join(events[:20_000]))
    for commands in marked("run: in a shop"):
        shell(commands, shop)
    for name in ("tags.jsonl", "piped.jsonl"):
        sources = [json.loads(line)["source"] for line in (shop / name).read_bytes().splitlines()]
        assert [source["offset"] for source in sources if source is not None] == list(range(20_000))


@pytest.mark.xdist_group("demo")
def test_a_csv_of_purchases_gives_recency_frequency_and_monetary_value(tmp_path: Path, demo: Path) -> None:
    events = [json.loads(line) for line in (demo / "events.jsonl").read_bytes().splitlines()[:40_000]]
    rows = [f"{event['customer_id']},{event['event_time']},{event['spend']}" for event in events]
    (tmp_path / "purchases.csv").write_text("\n".join(["customer_id,event_time,amount", *rows]) + "\n")
    (commands,) = marked("run: with purchases.csv")
    said = shell(commands, tmp_path)
    assert all(feature in said for feature in ("recency", "frequency", "monetary"))
    found = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_bytes().splitlines()]
    assert sum(tag["reason"] == "time" for tag in found) > 100
    assert all(0.0 <= one["share"] <= 1.0 for tag in found if tag["drivers"] for one in tag["drivers"])


@pytest.mark.xdist_group("demo")
def test_a_table_of_customers_is_a_warm_start(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "customer_data.csv").write_bytes((demo / "customer_data.csv").read_bytes())
    write_lines(tmp_path / "events.jsonl", shoppers(500))
    (commands,) = marked("run: with age, income and purchases in table and events")
    assert "801 customers" in shell(commands, tmp_path)
    first = json.loads((tmp_path / "tags.jsonl").read_bytes().splitlines()[0])
    assert (first["reason"], first["change"]) == ("event", "new")


def test_the_python_example_runs() -> None:
    (code,) = marked("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert re.match(r"\d\n\{", done.stdout)


def test_every_setting_is_listed_and_every_listed_setting_exists() -> None:
    text = page("configuration.md")
    table = text[: text.index("## Features")]
    listed = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`([a-z_.]+)`", row)}
    assert listed == set(flat_keys(Config()))


def test_every_output_field_is_listed() -> None:
    text = page("output.md")
    table = text[: text.index("`--emit changes`")]
    listed = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`([a-z_]+)`", row)}
    assert listed == set(Assignment.__struct_fields__)


def test_every_dead_letter_code_is_listed() -> None:
    text = page("output.md")
    table = text[text.index("## Dead letters") :]
    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", table, re.MULTILINE)) == {code.value for code in DeadLetterCode}


COMMANDS = [
    "demo", "init", "run", "fit", "segments", "explain", "verify", "schema", "config show", "doctor", "produce", "redrive",
    "repartition", "replay",
]  # fmt: skip


def test_the_section_on_kafka_works_as_written(kafka: str, tmp_path: Path) -> None:
    shell("streamseg demo --write shop", tmp_path)
    shop = tmp_path / "shop"
    events = (shop / "events.jsonl").read_bytes().splitlines(keepends=True)[:20_000]
    (shop / "events.jsonl").write_bytes(b"".join(events))
    name = new_name("readme")
    topics = {
        "input.topic": "in",
        "output.topic": "out",
        "output.catalog_topic": "segments",
        "output.dead_letter_topic": "dead",
    }
    settings = {"application": name} | {key: f"{name}-{topic}" for key, topic in topics.items()}
    own = "".join(f"export STREAMSEG_{k.upper().replace('.', '__')}={value}\n" for k, value in settings.items())
    (before,), (job,), (after,) = marked("kafka: before"), marked("kafka: job"), marked("kafka: after")
    before = before.replace("localhost:9092", kafka)
    assert "4 partitions" in shell(own + before, shop)
    variables = own + before.splitlines()[0] + "\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(["bash", "-c", variables + "exec " + job], cwd=shop, env=os.environ | PORT | {"PATH": path})
    try:
        until(lambda: sum(committed(settings, kafka).values()) == 20_000, "all events are committed")
        assert "20,000 records" in shell(variables + after, shop)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"streamseg {command}" in result.output
    assert "Example" in result.output


def test_the_readme_fits_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    for command in COMMANDS:
        assert command.split()[0] in result.output
    assert "Exit codes" in result.output
    assert "--install-completion" in result.output

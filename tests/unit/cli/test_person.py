"""What is kept about one person: exported, and erased from every byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.commands import ran, streamseg
from tests.harness import event, shoppers, write_lines

SETTINGS = ("--set", "model.segments=3", "--set", "model.warm_up=30", "--set", "metrics.port=0")
PERSON = "person-77"
AGE, INCOME = 33.2170123, 1017.4567
WRITTEN = (b"33.217", b"1017.4567", struct.pack("<d", AGE), struct.pack("<d", INCOME))


@pytest.fixture(name="here")
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    events = shoppers(1_500)
    for i in range(0, 1_500, 100):
        events.insert(i, event(PERSON, float(i), age=AGE, income=INCOME, purchases=1.5))
        events.insert(i, (None, b'{"customer_id":"%s","age":"old 33.217 1017.4567"}' % PERSON.encode(), None))
    events.insert(700, (None, b'{"customer_id":"%s","age":33.2170123,' % PERSON.encode(), None))
    # Another one's, which only looks alike.
    events.insert(701, (None, b'{"customer_id":"person-771","age":"x"}', None))
    write_lines(tmp_path / "events.jsonl", events)
    return tmp_path


def places(directory: Path, *wanted: bytes) -> list[str]:
    """Files that hold any of the bytes."""
    return sorted(path.name for path in directory.iterdir() if any(one in path.read_bytes() for one in wanted))


@pytest.mark.parametrize("outputs", [("-o", "tags.jsonl"), ()], ids=["files", "inside the state"])
def test_an_erased_customer_is_in_no_byte_that_is_kept(here: Path, outputs: tuple[str, ...]) -> None:
    ran("run", "-i", "events.jsonl", *outputs, *SETTINGS)
    (here / "events.jsonl").unlink()
    assert places(here, PERSON.encode())
    found = json.loads(ran("export-customer", PERSON, *SETTINGS))
    assert found["state"]["features"][0]["value"] == pytest.approx(AGE, abs=1e-6)
    assert len(found["tags"]) >= 15
    assert len(found["dead_letters"]) == 16
    said = ran("erase", PERSON, *SETTINGS)
    assert "erased from the state, its logs and snapshots, and the model" in said
    assert places(here, *WRITTEN) == []
    # What says that the customer is erased is for whoever reads the tags.
    tombstone = b'{"customer_id":"%s","erase":true}\n' % PERSON.encode()
    for name in places(here, PERSON.encode() + b'"'):
        text = (here / name).read_bytes()
        assert name == "tags.jsonl"
        assert text.count(PERSON.encode() + b'"') == 1
        assert text.endswith(tombstone)
    assert streamseg("explain", PERSON, *SETTINGS).exit_code == 2
    assert streamseg("erase", "nobody", *SETTINGS).exit_code == 2
    assert "nothing is kept about a customer 'nobody'" in streamseg("export-customer", "nobody", *SETTINGS).stderr
    assert "person-771" in json.dumps(json.loads(ran("export-customer", "person-771", *SETTINGS)))
    ran("verify", *SETTINGS)


def test_the_job_goes_on_behind_an_erasure(here: Path) -> None:
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *SETTINGS)
    before = (here / "tags.jsonl").stat().st_size
    lines = (here / "tags.jsonl").read_bytes().count(b"\n")
    ran("erase", PERSON, *SETTINGS)
    after = (here / "tags.jsonl").read_bytes()
    assert after[:before].count(b"\n") == lines, "no line is cut or added"
    assert all(isinstance(json.loads(line), dict) for line in after.splitlines())
    with (here / "events.jsonl").open("ab") as file:
        for _, value, _ in shoppers(300, seed=5):
            file.write((value or b"") + b"\n")
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *SETTINGS)
    ran("verify", *SETTINGS)
    assert (here / "tags.jsonl").read_bytes().startswith(after)


def test_an_erasure_that_comes_as_an_event_leaves_the_state_at_the_end_of_the_run(here: Path) -> None:
    with (here / "events.jsonl").open("ab") as file:
        file.write(b'{"customer_id":"%s","erase":true}\n' % PERSON.encode())
    ran("run", "-i", "events.jsonl", "-o", "tags.jsonl", *SETTINGS)
    assert places(here, struct.pack("<d", AGE), struct.pack("<d", INCOME)) == []
    assert "streamseg.db" not in places(here, PERSON.encode())

"""Files that are rotated while they are followed."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from streamseg.application.wiring import source_of
from streamseg.config import Config
from streamseg.engine.verify import Verifier
from streamseg.errors import ConfigError
from streamseg.formats.outputs import iso_time
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport, Wiring
from streamseg.transports.reader import EmbeddedReader
from tests.harness import T0_MS, FixedClock, Recorder, loop

FEATURES = [{"name": "age"}, {"name": "visits", "aggregate": "count"}]


def renamed(path: Path, n: int) -> None:
    path.rename(path.with_name(f"{path.name}.{n}"))


def dated(path: Path, n: int) -> None:
    path.rename(path.with_name(f"{path.stem}-2024010{n}{path.suffix}"))


def copied(path: Path, n: int) -> None:
    shutil.copy(path, path.with_name(f"{path.name}.{n}"))
    path.write_bytes(b"")


class Following:
    """A job that follows a log, and what is written to it."""

    def __init__(self, directory: Path, kind: str, **of_input: Any) -> None:
        self.directory, self.log = directory, directory / f"events.{kind}"
        self.config = Config.model_validate(
            {
                "input": {"path": str(self.log), "follow": True, **of_input},
                "output": {"path": str(directory / "tags.jsonl")},
                "embedded": {"path": str(directory / "state.db")},
                "features": FEATURES,
                "model": {"segments": 3, "warm_up": 30},
            }
        )
        self.kind, self.written = kind, 0
        self.loop: Loop | None = None

    @classmethod
    def begun(cls, directory: Path, kind: str = "jsonl", **of_input: Any) -> Self:
        """A job that has read 100 lines."""
        job = cls(directory, kind, **of_input)
        job.write(100)
        job.start()
        job.read()
        return job

    def write(self, n: int) -> None:
        new = not self.log.exists() or self.log.stat().st_size == 0
        with self.log.open("a") as file:
            if self.kind == "csv" and new:
                file.write("customer_id,event_time,age\n")
            for i in range(self.written, self.written + n):
                time = iso_time((T0_MS + i * 60_000) * 1_000)
                cells = {"customer_id": f"c{i % 50}", "event_time": time, "age": 20 + i % 50}
                line = json.dumps(cells) if self.kind == "jsonl" else ",".join(map(str, cells.values()))
                file.write(line + "\n")
        self.written += n

    def start(self) -> None:
        source = source_of(self.config, self.log)
        wiring = Wiring(source, Path(str(self.config.output.path)), None, follow=True)
        reopen = partial(source_of, self.config)
        self.transport = EmbeddedTransport(self.directory / "state.db", wiring=wiring, reopen=reopen)
        self.loop = loop(self.transport, self.config.job_settings(), Recorder(), 40)

    def read(self) -> None:
        """Step until what was written is tagged."""
        assert self.loop is not None
        for _ in range(200):
            self.loop.step()
            there = self.transport.committed().get(0)
            if there is not None and there.next_offset >= self.written:
                return
        raise AssertionError(f"{there} of {self.written} read")

    def stop(self) -> None:
        assert self.loop is not None
        self.loop.finish()
        self.transport.close()

    def tagged(self) -> list[tuple[str, int]]:
        found = [json.loads(line) for line in (self.directory / "tags.jsonl").read_text().splitlines()]
        return [(tag["customer_id"], tag["source"]["offset"]) for tag in found if tag["source"]]

    def prove(self, *, gone: bool = False) -> None:
        """Each line once, in order; `verify` finds the input under whatever name it has."""
        assert self.tagged() == [(f"c{i % 50}", i) for i in range(self.written)]
        with closing(EmbeddedReader(self.directory / "state.db", partial(source_of, self.config))) as reader:
            report = Verifier(reader, self.config.job_settings(), FixedClock(), lambda report: None).run()
        assert report.lost is gone
        assert report.records <= self.written if gone else report.records == self.written


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("rotate", [renamed, dated, copied])
def test_a_log_that_is_rotated_is_read_on_without_loss(
    tmp_path: Path, kind: str, rotate: Callable[[Path, int], None]
) -> None:
    job = Following.begun(tmp_path, kind)
    for n in range(1, 4):
        job.write(30 * n)
        rotate(job.log, n)
        job.write(35)
        job.read()
    job.stop()
    job.prove()


@pytest.mark.parametrize("rotate", [renamed, copied])
def test_a_log_that_was_rotated_while_the_job_stood_is_read_on(tmp_path: Path, rotate: Callable[[Path, int], None]) -> None:
    job = Following.begun(tmp_path)
    job.stop()
    job.write(50)
    rotate(job.log, 1)
    job.write(70)
    job.start()
    job.read()
    job.stop()
    job.start()
    job.write(10)
    job.read()
    job.stop()
    job.prove()


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("rotate", [renamed, copied])
def test_files_that_were_rotated_in_between_are_read_in_turn(
    tmp_path: Path, rotate: Callable[[Path, int], None], stopped: bool
) -> None:
    """Days of rotation while the job stands, with a copy that somebody made on the way."""
    job = Following.begun(tmp_path)
    if stopped:
        job.stop()
    job.write(10)
    shutil.copy(job.log, tmp_path / "events.bak.jsonl")
    job.write(5)
    for n in range(1, 4):
        job.write(6)
        shutil.copy(job.log, tmp_path / f"events.bak-{n}.jsonl")
        job.write(3)
        rotate(job.log, n)
        job.write(50)
    if stopped:
        job.start()
    job.read()
    job.stop()
    job.start()
    job.write(9)
    job.read()
    job.stop()
    job.prove()


def test_the_old_file_is_read_while_its_writer_is_still_at_it(tmp_path: Path) -> None:
    job = Following.begun(tmp_path)
    renamed(job.log, 1)
    new, job.log = job.log, tmp_path / "events.jsonl.1"
    job.write(7)
    job.read()
    job.write(5)
    job.log = new
    job.write(20)
    job.read()
    job.stop()
    job.prove()


def test_names_of_old_files_may_change_again_and_a_deleted_one_is_said_to_be_gone(tmp_path: Path) -> None:
    job = Following.begun(tmp_path)
    renamed(job.log, 1)
    job.write(60)
    job.read()
    (tmp_path / "events.jsonl.1").rename(tmp_path / "events.jsonl.2")
    renamed(job.log, 1)
    job.write(60)
    job.read()
    job.stop()
    job.prove()
    (tmp_path / "events.jsonl.2").unlink()
    job.prove(gone=True)


def test_what_is_nowhere_any_more_stops_the_job_unless_it_may_be_lost(tmp_path: Path) -> None:
    job = Following.begun(tmp_path)
    (tmp_path / "events.jsonl.1.gz").write_bytes(gzip.compress(job.log.read_bytes()))
    job.log.unlink()
    job.write(20)
    with pytest.raises(ConfigError, match="rotated or truncated"):
        job.read()
    job.stop()
    with pytest.raises(ConfigError, match="rotated or truncated"):
        job.start()
    skipping = Following(tmp_path, "jsonl", lost="skip")
    skipping.written = job.written
    skipping.start()
    skipping.read()
    skipping.stop()
    skipping.prove(gone=True)


def test_a_last_line_that_will_not_be_completed_is_a_dead_letter(tmp_path: Path) -> None:
    job = Following.begun(tmp_path)
    with job.log.open("a") as file:
        file.write('{"customer_id": "c1", "ag')
    renamed(job.log, 1)
    assert job.loop is not None
    for _ in range(5):
        job.loop.step()
    assert job.transport.committed()[0].next_offset == 100, "its writer may still be at it"
    job.written += 1
    job.write(20)
    job.read()
    job.stop()
    assert len(job.tagged()) == 120


def test_without_following_a_file_that_is_another_one_is_refused(tmp_path: Path) -> None:
    job = Following.begun(tmp_path, follow=False)
    job.stop()
    renamed(job.log, 1)
    job.write(120)
    with pytest.raises(ConfigError, match="another one than before"):
        job.start()

"""The engine on Spark: a real Spark, a real broker, drivers and workers that are killed, and an outside reader."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from streamseg.application.wiring import open_checkpoint, open_reader, restored
from streamseg.config import Config
from streamseg.engine.verify import verified
from streamseg.engine.verify_partition import Report
from streamseg.errors import ConfigError, CorruptedError, StreamsegError
from streamseg.spark.store import Store
from tests.harness import Event, FixedClock, event, shoppers
from tests.integration.kafka_jobs import Job, expected, stream
from tests.sparks import ROOT, Spark, installed
from tests.stores import produce
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("spark")

POINTS = {"computed", "cataloged", "stepped", "kept", "committed"}
Tags = dict[tuple[int, int], list[bytes]]


@pytest.fixture(scope="module", name="spark")
def _spark() -> Spark:
    return installed()


class Query:
    """A query's part of a plan, over the topics of a job that no worker runs."""

    def __init__(self, job: Job, directory: Path, application: str, **more: Any) -> None:
        """It publishes to topics of its own."""
        topics = {"topic": "out", "catalog_topic": "segments", "dead_letter_topic": "dead"}
        output = {key: f"{job.names.application}-{application}-{what}" for key, what in topics.items()}
        self.job, self.checkpoint = job, str(directory / application)
        self.config = job.config | {"application": f"{job.names.application}-{application}", "output": output}
        self.plan = {"config": self.config, "checkpoint": self.checkpoint, **more}

    def again(self, **more: Any) -> dict[str, Any]:
        """Without the fault."""
        return {key: value for key, value in self.plan.items() if key != "fault"} | more

    def with_fault(self, directory: Path, how: str, *at: str) -> dict[str, Any]:
        """Each of the points is where a cable is pulled, once."""
        marks = directory / f"pulled-{self.config['application']}"
        return self.plan | {"fault": {"at": at, "how": how, "marks": str(marks)}}

    def verify(self) -> Report:
        loaded = Config.model_validate(self.config)
        with closing(open_checkpoint(loaded, self.checkpoint)) as reader:
            return verified(reader, loaded.job_settings(), FixedClock())

    def segments(self) -> list[tuple[int, str, int]]:
        loaded = Config.model_validate(self.config)
        with closing(open_checkpoint(loaded, self.checkpoint)) as reader:
            return [(one.id, one.name, one.customers) for one in restored(loaded, reader).segments()]

    def tags(self) -> Tags:
        return published(self.job, self.config["output"]["topic"])

    def letters(self) -> Tags:
        return published(self.job, self.config["output"]["dead_letter_topic"])


def published(job: Job, topic: str) -> Tags:
    """What is committed, by the event that it is of, in order."""
    found: Tags = defaultdict(list)
    client = Consumer({"bootstrap.servers": job.servers, "group.id": "outside", "isolation.level": "read_committed"})
    for place in range(job.n_partitions):
        client.assign([TopicPartition(topic, place, 0)])
        _, end = client.get_watermark_offsets(TopicPartition(topic, place), timeout=10)
        while client.position([TopicPartition(topic, place)])[0].offset < end and end:
            for message in client.consume(1_000, 0.1):
                assert message.error() is None
                headers, value = dict(message.headers() or ()), message.value()
                if "streamseg.error.offset" in headers:
                    partition, offset = (headers[f"streamseg.error.{what}"] or b"" for what in ("partition", "offset"))
                    found[int(partition), int(offset)].append(value or b"")
                elif value is not None and (source := json.loads(value)["source"]) is not None:
                    found[source["partition"], source["offset"]].append(value)
    client.close()
    return found


def answered_once(query: Query, events: list[Event]) -> Tags:
    tags, letters = query.tags(), query.letters()
    both = {at: tags.get(at, []) + letters.get(at, []) for at in tags.keys() | letters.keys()}
    assert {at: len(n) for at, n in both.items() if len(n) != 1} == {}
    assert both.keys() == expected(query.job, events)
    return both


@pytest.fixture(scope="module", name="outcome")
def _outcome(kafka: str, spark: Spark, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One session: a query that nothing disturbs, and others over the same input of which cables are pulled."""
    directory = tmp_path_factory.mktemp("spark")
    job, events = Job(kafka, directory, n_partitions=3), stream(4_000)
    job.produce(events)
    calm = Query(job, directory, "calm", batch_records=1_500)
    pulled = Query(job, directory, "pulled", batch_records=1_500)
    plain = Query(job, directory, "plain", batch_records=1_500, transactions=False)
    # Each point of a driver's turn and of a task's. A driver ends with its query, which begins again.
    drivers = [pulled.with_fault(directory, "raise", at) for at in ("computed", "cataloged", "stepped")]
    workers = pulled.with_fault(directory, "kill", "kept", "committed")
    sinks = [plain.with_fault(directory, "raise", at) for at in ("published", "computed")]
    queries = [calm.plan, *drivers, workers, *sinks, plain.again()]
    code, failed = spark.run(directory, queries)
    assert code == 0, (directory / "spark.log").read_text()[-5_000:]
    return {"events": events, "calm": calm, "pulled": pulled, "plain": plain, "failed": failed, "directory": directory}


def test_all_that_is_read_is_tagged_once_and_derived_again(outcome: dict[str, Any]) -> None:
    assert outcome["failed"][0] is None
    answered_once(outcome["calm"], outcome["events"])
    report = outcome["calm"].verify()
    assert report.unread == []
    assert report.records == len(outcome["events"])


def test_drivers_and_workers_that_are_killed_leave_the_same_tags_once(outcome: dict[str, Any]) -> None:
    calm, pulled = (answered_once(outcome[name], outcome["events"]) for name in ("calm", "pulled"))
    assert [one is not None for one in outcome["failed"][1:5]] == [True, True, True, False]
    assert {
        path.name for path in (outcome["directory"] / f"pulled-{outcome['pulled'].config['application']}").iterdir()
    } == POINTS
    assert calm.keys() == pulled.keys()
    assert [at for at in calm if _what_it_says(calm[at][0]) != _what_it_says(pulled[at][0])] == []
    assert outcome["calm"].segments() == outcome["pulled"].segments()
    assert outcome["pulled"].verify().unread == []


def _what_it_says(value: bytes) -> Any:
    """Of a tag, but for the ids of its query; of a dead letter, all."""
    try:
        body = json.loads(value)
    except ValueError:
        return value
    names = ("customer_id", "segment_id", "segment_name", "status", "previous_segment_id", "margin", "model_version")
    return {key: body.get(key) for key in names} if isinstance(body, dict) else body


def test_spark_s_own_sink_repeats_bytes_and_nothing_else(outcome: dict[str, Any]) -> None:
    tags = outcome["plain"].tags()
    assert [at for at, values in tags.items() if len(set(values)) > 1] == []
    assert max(len(values) for values in tags.values()) > 1, "nothing was repeated: the fault came too late"
    assert tags.keys() | outcome["plain"].letters().keys() == expected(outcome["plain"].job, outcome["events"])
    assert outcome["plain"].verify().unread == []


@pytest.fixture(name="copy")
def _copy(outcome: dict[str, Any], tmp_path: Path) -> Path:
    """A checkpoint, to be damaged: its `segments`."""
    return Path(shutil.copytree(outcome["calm"].checkpoint, tmp_path / "copy")) / "segments"


def opened(outcome: dict[str, Any], copy: Path, **sections: Any) -> None:
    loaded = Config.model_validate(outcome["calm"].config | sections)
    with closing(open_checkpoint(loaded, str(copy.parent))) as reader:
        restored(loaded, reader)


def of(folder: Path, place: int = -1) -> Path:
    """A file of a turn, of which there are some."""
    files = sorted(folder.iterdir())
    assert len(files) > 1
    return files[place]


@pytest.mark.parametrize("what", ["heads", "model", "customers/0"])
def test_a_file_of_a_checkpoint_that_is_cut_off_is_damage(outcome: dict[str, Any], copy: Path, what: str) -> None:
    file = of(copy / what)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptedError, match="restore the checkpoint from a backup"):
        opened(outcome, copy)


@pytest.mark.parametrize("what", ["model", "customers/0"])
def test_a_file_of_a_checkpoint_that_is_missing_is_damage(outcome: dict[str, Any], copy: Path, what: str) -> None:
    of(copy / what, -2).unlink()
    with pytest.raises(StreamsegError) as caught:
        opened(outcome, copy)
    assert caught.value.hint
    assert caught.value.exit_code == CorruptedError.exit_code


def test_a_folder_without_a_checkpoint_is_named(outcome: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no state of segments in .*empty"):
        opened(outcome, tmp_path / "empty" / "segments")


def test_a_checkpoint_of_other_settings_is_refused(outcome: dict[str, Any], copy: Path) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        opened(outcome, copy, model={"segments": 5})


def test_a_checkpoint_of_another_application_is_refused(outcome: dict[str, Any], copy: Path) -> None:
    with pytest.raises(ConfigError, match="application"):
        opened(outcome, copy, application="somebody-else")


def test_a_checkpoint_of_another_version_is_refused(outcome: dict[str, Any], copy: Path) -> None:
    store = Store(str(copy.parent))
    head = store.head()
    assert head is not None
    store.put_head(msgspec.structs.replace(head, format_version=head.format_version + 1))
    with pytest.raises(ConfigError, match=r"format version 2, this program writes 1"):
        opened(outcome, copy)


# -- What explores for longer ---------------------------------------------------------------------------------------------


def run_once(job: Job, directory: Path, spark: Spark, queries: list[dict[str, Any]], **settings: str) -> list[str | None]:
    code, failed = spark.run(directory, queries, settings=settings)
    assert code == 0, (directory / "spark.log").read_text()[-5_000:]
    return failed


@pytest.mark.exhaustive
def test_drivers_that_are_killed_leave_each_tag_once(kafka: str, spark: Spark, tmp_path: Path) -> None:
    """The process, at each of its points; and the tasks' on the way."""
    job, events = Job(kafka, tmp_path, n_partitions=3), stream(6_000, seed=1)
    job.produce(events)
    query = Query(job, tmp_path, "killed", batch_records=1_500)
    for at in ("computed", "cataloged", "stepped"):
        code, failed = spark.run(tmp_path, [query.with_fault(tmp_path, "kill", at)])
        assert (code, failed) == (-9, [])
    assert run_once(job, tmp_path, spark, [query.with_fault(tmp_path, "kill", "kept", "committed")]) == [None]
    answered_once(query, events)
    assert query.verify().unread == []


@pytest.mark.exhaustive
def test_two_executors_and_tasks_that_run_twice(kafka: str, spark: Spark, tmp_path: Path) -> None:
    """Executors are processes of their own, and slow tasks are begun a second time."""
    job, events = Job(kafka, tmp_path, n_partitions=4), stream(6_000, seed=2)
    job.produce(events)
    query = Query(job, tmp_path, "cluster", batch_records=1_500)
    cluster = {
        "spark.master": "local-cluster[2,1,900]",
        "spark.executor.memory": "900m",
        "spark.speculation": "true",
        "spark.speculation.interval": "10ms",
        "spark.speculation.multiplier": "1.01",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.minTaskRuntime": "1ms",
    }
    assert run_once(job, tmp_path, spark, [query.plan], **cluster) == [None]
    answered_once(query, events)
    assert query.verify().unread == []


@pytest.mark.exhaustive
def test_the_commands_of_the_page_on_spark_work_as_written(kafka: str, spark: Spark, tmp_path: Path) -> None:
    job = Job(kafka, tmp_path, n_partitions=2)
    job.produce(shoppers(12_000, customers=1_500, k=4))
    topics = {"INPUT__TOPIC": job.names.input, "OUTPUT__TOPIC": job.names.assignments,
              "OUTPUT__CATALOG_TOPIC": job.names.catalog, "OUTPUT__DEAD_LETTER_TOPIC": job.names.dead_letters}  # fmt: skip
    path = f"{Path(spark.python).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"APPLICATION": job.names.application, "METRICS__PORT": "0"} | topics
    environment = spark.environment() | {f"STREAMSEG_{key}": value for key, value in settings.items()} | {"PATH": path}
    page = (ROOT / "docs" / "spark.md").read_text()
    said = ""
    for block in re.findall(r"<!-- spark: \w+ -->\n```sh\n(.*?)```", page, re.DOTALL):
        command = block.replace("localhost:9092", kafka).replace("/data/shop-segments", str(tmp_path / "shop-segments"))
        command = command.replace("--once", f"--once --conf spark.master=local[2] --conf spark.jars={spark.jars}")
        command = command.replace("explain 718", "explain c718")
        done = subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    assert "12,000 records derived again" in said
    assert "customers" in said
    assert "runner-up" in said


@pytest.mark.exhaustive
def test_a_topic_without_records_and_a_partition_without_records(kafka: str, spark: Spark, tmp_path: Path) -> None:
    job, events = Job(kafka, tmp_path, n_partitions=3), stream(3_000, seed=3)
    query = Query(job, tmp_path, "silent", batch_records=1_000)
    assert run_once(job, tmp_path, spark, [query.plan]) == [None]
    assert query.tags() == {}
    # All in partition 1.
    produce(kafka, job.names.input, 1, events)
    assert run_once(job, tmp_path, spark, [query.plan]) == [None]
    assert {partition for partition, _ in query.tags()} == {1}
    report = query.verify()
    assert (report.unread, report.records) == ([], len(events))


@pytest.mark.exhaustive
def test_one_partition_has_the_segments_that_a_worker_finds(kafka: str, spark: Spark, tmp_path: Path) -> None:
    """The same input, cut alike: the same ids, names, sizes and tags."""
    job, events = Job(kafka, tmp_path, n_partitions=1, input={"batch_records": 500}), shoppers(6_000, customers=400)
    job.produce(events)
    job.start("w1")
    until(lambda: job.committed_or_none() == {0: len(events)}, "all is committed")
    assert job.kill("w1", signal.SIGTERM) == 0
    query = Query(job, tmp_path, "alike", batch_records=500)
    assert run_once(job, tmp_path, spark, [query.plan]) == [None]
    loaded = Config.model_validate(job.config)
    with closing(open_reader(loaded)) as reader:
        native = [(one.id, one.name, one.customers) for one in restored(loaded, reader).segments()]
    assert [(i, name) for i, name, _ in query.segments()] == [(i, name) for i, name, _ in native]
    here, there = query.tags(), published(job, job.config["output"]["topic"])
    same = sum(_segment(here[at][0]) == _segment(there[at][0]) for at in here)
    assert same / len(here) > 0.97


def _segment(value: bytes) -> object:
    return json.loads(value)["segment_id"]


@pytest.mark.exhaustive
def test_a_checkpoint_is_kept_short_and_an_erased_customer_is_in_no_file(kafka: str, spark: Spark, tmp_path: Path) -> None:
    job, events = Job(kafka, tmp_path, n_partitions=2), shoppers(12_000, customers=60)
    marked = [event("erase-me-please", 1e6 + i, age=30.0 + i, income=1.0, purchases=2.0) for i in range(3)]
    job.produce([*events[:3_000], *marked, event("erase-me-please", 2e6, erase=True), *events[3_000:]])
    query = Query(job, tmp_path, "short", batch_records=400)
    assert run_once(job, tmp_path, spark, [query.plan]) == [None]
    folder = Path(query.checkpoint) / "segments"
    turns = max(int(file.name) for file in (folder / "heads").iterdir())
    assert turns > 15
    assert len(list((folder / "heads").iterdir())) < turns / 2
    # A snapshot followed the erasure, and what it stands for went.
    assert min(len(list((folder / "customers" / p).iterdir())) for p in ("0", "1")) < turns - 10
    assert [file for file in folder.rglob("*") if file.is_file() and b"erase-me-please" in file.read_bytes()] == []
    report = query.verify()
    assert report.unread == []
    assert max(report.horizon.values()) > 0

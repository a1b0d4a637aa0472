"""What is kept about one person: all of it, for them to see, or erased."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from streamseg.application.wiring import open_reader, restored
from streamseg.config import Config
from streamseg.config.build import connection_of, names_of
from streamseg.engine.clock import SystemClock
from streamseg.engine.events import Observation
from streamseg.engine.explain import Explanation, explain
from streamseg.engine.job import Job
from streamseg.engine.ports import LogReader, Topic
from streamseg.engine.settings import JobSettings
from streamseg.errors import ConfigError
from streamseg.formats.events import EventDecoder
from streamseg.formats.subject import Subject
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport, Wiring
from streamseg.transports.reader import STREAM, EmbeddedReader
from streamseg.transports.sinks import StreamSink, standard_output
from streamseg.transports.traces import remove

# How long running workers may take to process an erasure.
_PROCESSED_S, _LOOK_S = 60.0, 0.2


def subject_of(config: Config, customer: str) -> Subject:
    decoder = EventDecoder(config.job_settings().fields, config.input.max_record_bytes)
    return Subject(customer, lambda value: decoder.ids([value])[0])


class PersonalData(NamedTuple):
    """All that is kept about a customer; `state` None where the state does not know them.

    `remembered_event_ids`: how many hashes of their events' ids there are (`input.deduplicate`).
    """

    state: Explanation | None
    tags: list[Any]
    dead_letters: list[Any]
    remembered_event_ids: int = 0


def personal_data(config: Config, customer: str) -> PersonalData:
    """Raises StreamsegError."""
    subject = subject_of(config, customer)
    with closing(open_reader(config)) as reader:
        job = restored(config, reader)
        found = explain(job, customer)
        tags, letters = (list(_published(reader, topic, subject)) for topic in (Topic.ASSIGNMENTS, Topic.DEAD_LETTERS))
    return PersonalData(found, tags, letters, sum(task.seen.count(customer) for task in job.tasks.values()))


def _published(reader: LogReader, topic: Topic, subject: Subject) -> Iterator[Any]:
    for partition in range(reader.n_partitions):
        there = reader.published(topic, partition, 0)
        for value in () if there is None else there.values:
            if value is not None and subject.is_published(topic, value):
                yield json.loads(value)


def erase_customer(config: Config, customer: str) -> list[str]:
    """Erase a customer from all that is kept. Returns what was done, and what is left to do, in words.

    Raises ConfigError where there is no such customer and nothing is kept about them.
    """
    if config.input.transport == "kafka":
        return _erase_on_kafka(config, customer)
    with closing(open_reader(config)) as reader:
        assert isinstance(reader, EmbeddedReader)
        job, wiring = restored(config, reader), _wiring_as_before(reader)
    known = explain(job, customer) is not None
    with closing(EmbeddedTransport(Path(config.embedded.path), wiring=wiring)) as store:
        if known:
            _erase_from_state(store, job.settings, customer)
        removed = remove(store, subject_of(config, customer))
    if not known and not removed.stored and not removed.lines:
        raise _unknown(customer)
    said = ["erased from the state, its logs and snapshots, and the model" if known else "the state does not know them"]
    if removed.stored:
        said.append(f"{removed.stored:,} records removed from inside the state")
    said += [f"{n:,} lines overwritten in {path}" for path, n in removed.lines.items()]
    said.append("your input, backups, and whatever read the tags may hold them still: those are yours to erase")
    return said


def _wiring_as_before(reader: EmbeddedReader) -> Wiring:
    """Without an input, which is not ended by that; the outputs are those that were written to last."""
    tags, letters = (reader.last_output(topic) for topic in (Topic.ASSIGNMENTS, Topic.DEAD_LETTERS))
    sink: Path | StreamSink | None = standard_output() if tags == Path(STREAM) else tags
    return Wiring(None, sink, letters, follow=True)


def _erase_from_state(store: EmbeddedTransport, settings: JobSettings, customer: str) -> None:
    """Process one record that erases the customer, and write snapshots until none holds it."""
    store.produce(0, [(customer.encode(), None, None)])
    goal = store.input_end()
    loop = Loop(store, settings, SystemClock(), _Quiet(), threading.Event(), batch_records=settings.step_records)
    while (there := store.committed().get(0)) is None or there.next_offset < goal:
        loop.step()
    loop.finish()


class _Quiet:
    def observe(self, event: Observation) -> None:
        """There is nothing to tell."""


def _unknown(customer: str) -> ConfigError:
    return ConfigError(
        f"nothing is kept about a customer {customer!r}",
        hint="ids are as in the events; a job that is behind has not seen the newest yet",
    )


def _erase_on_kafka(config: Config, customer: str) -> list[str]:
    from streamseg.transports.kafka.feeding import send_to

    names = names_of(config)
    with closing(open_reader(config)) as reader:
        partition = _partition_of(restored(config, reader), customer)
        letters = sum(1 for _ in _published(reader, Topic.DEAD_LETTERS, subject_of(config, customer)))
        if partition is None and not letters:
            raise _unknown(customer)
        said = []
        if partition is not None:
            event = json.dumps({config.input.customer_id: customer, "erase": True}).encode()
            offset = send_to(connection_of(config), names.input, partition, customer.encode(), event)
            said = _processed(reader, partition, offset, names.assignments)
    if letters:
        said.append(
            f"{letters:,} dead letters of theirs are in the topic {names.dead_letters}, from which Kafka deletes no single "
            "record: delete those before an offset with kafka-delete-records.sh, or give the topic a retention"
        )
    said.append("the input topic and whatever read the tags may hold them still: those are yours to erase")
    return said


def _partition_of(job: Job, customer: str) -> int | None:
    return next((p for p, task in job.tasks.items() if customer in task.table.index), None)


def _processed(reader: LogReader, partition: int, offset: int, topic: str) -> list[str]:
    deadline, pause = time.monotonic() + _PROCESSED_S, threading.Event()
    while (there := reader.committed().get(partition)) is None or there.next_offset <= offset:
        if time.monotonic() >= deadline:
            return [
                f"the erasure is in the input (partition {partition}, offset {offset:,}), and no worker has processed it "
                f"within {_PROCESSED_S:.0f} s: it is when one runs"
            ]
        pause.wait(_LOOK_S)
    return [
        "erased from the state and the model; their tag is a tombstone now",
        "the logs of the state hold them until the next snapshot, at the latest after 20 commits or when the worker stops",
        f"older tags leave {topic} when Kafka compacts it: after its min.compaction.lag.ms (7 days where streamseg "
        "created it), once the segment that has them is closed",
    ]

"""Where adapters meet the runtime, and nowhere else."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamseg.application import worker_id
from streamseg.config import Config
from streamseg.config.build import connection_of, names_of, opening_of, schemas_of
from streamseg.config.sections import WorkerConfig
from streamseg.config.start_files import reference_of, warm_start_of
from streamseg.core.model.records import Start
from streamseg.core.model.spec import parse_duration
from streamseg.engine.backtest import Rehearsal
from streamseg.engine.clock import Clock, SystemClock
from streamseg.engine.events import Observer
from streamseg.engine.job import Job
from streamseg.engine.ports import LogReader, Outcome, Records
from streamseg.engine.restore import restore, restore_model, retried
from streamseg.errors import ConfigError, RetriableError
from streamseg.formats.events import EventDecoder
from streamseg.runtime.loop import Loop
from streamseg.runtime.stages import Stop, Tracer
from streamseg.transports.csv_format import Columns, CsvWanted
from streamseg.transports.embedded import EmbeddedTransport, Wiring
from streamseg.transports.files import LineStream, Source
from streamseg.transports.files_doctor import examine_files
from streamseg.transports.finding import Finding, Sample, each, written_schemas
from streamseg.transports.reader import EmbeddedReader
from streamseg.transports.sinks import standard_output
from streamseg.transports.sources import open_source

if TYPE_CHECKING:
    from streamseg.spark.reader import CheckpointReader
    from streamseg.transports.kafka.reader import KafkaReader
    from streamseg.transports.kafka.transport import KafkaTransport

STANDARD = "-"
# Failures in a row, up to five seconds apart: a broker may be away for minutes, a disk that is full stays full.
_ATTEMPTS = {"embedded": 5, "kafka": 60}


class App:
    """A job over the embedded store, wired by a configuration."""

    def __init__(
        self,
        config: Config,
        observer: Observer,
        *,
        clock: Clock | None = None,
        stop: Stop | None = None,
        fault: Callable[[str], None] = lambda point: None,
        tracer: Tracer | None = None,
    ) -> None:
        """Raises StreamsegError where it cannot start."""
        self._tracer = tracer
        self.config = config
        warm_start = warm_start_of(config)
        self.transport = self._open(config, fault)
        try:
            self._prepare(config, warm_start, clock or SystemClock(), observer, stop or threading.Event())
        except BaseException:
            self.transport.close()
            raise

    def _open(self, config: Config, fault: Callable[[str], None]) -> EmbeddedTransport | KafkaTransport:
        if config.input.transport == "embedded":
            return EmbeddedTransport(
                Path(config.embedded.path),
                wiring=_wiring(config),
                reopen=partial(source_of, config),
                fault=fault,
            )
        return open_kafka(config, config.worker.id, fault)

    def _prepare(self, config: Config, warm_start: Start | None, clock: Clock, observer: Observer, stop: Stop) -> None:
        self.settings = dataclasses.replace(config.job_settings(), reference=reference_of(config))
        self.loop = Loop(
            self.transport,
            self.settings,
            clock,
            observer,
            stop,
            batch_records=config.input.batch_records,
            warm_start=warm_start,
            max_attempts=_ATTEMPTS[config.input.transport],
            tracer=self._tracer,
            drift_every_s=parse_duration(config.metrics.drift_every),
            schemas=schemas_of(config),
        )

    @property
    def source(self) -> Source | None:
        """The input, where it is a file."""
        wiring = self.transport.wiring if isinstance(self.transport, EmbeddedTransport) else Wiring()
        return None if isinstance(wiring.source, LineStream) else wiring.source

    def run(self) -> None:
        """Until the input ends or `stop` is set. Raises StreamsegError."""
        try:
            self.loop.run()
        finally:
            self.transport.close()


def with_worker_id(config: Config) -> Config:
    """With a stable id for this process, held until it ends. Jobs on files need none. Raises ConfigError."""
    if config.input.transport != "kafka" or config.worker.id:
        return config
    taken = WorkerConfig(id=worker_id.take(config.application))
    return config.model_copy(update={"worker": taken})


def open_state(config: Config, checkpoint: str | None) -> EmbeddedReader | KafkaReader | CheckpointReader:
    """The state for reading: of `checkpoint`, of Kafka's topics or of a file. Raises as those who open them."""
    return open_reader(config) if checkpoint is None else open_checkpoint(config, checkpoint)


def open_checkpoint(config: Config, checkpoint: str) -> CheckpointReader:
    """The state of the engine on Spark, for reading. Raises ConfigError, CorruptedError, RetriableError."""
    try:
        from streamseg.spark.reader import CheckpointReader
    except ImportError as error:
        raise ConfigError(
            f"reading a checkpoint needs more packages: {error}", where="--checkpoint", hint="pip install 'streamseg[spark]'"
        ) from None
    if config.input.transport != "kafka":
        raise ConfigError(
            "the engine on Spark reads from Kafka", where="input.transport", hint="name the brokers with --kafka SERVERS"
        )
    return CheckpointReader(checkpoint, connection_of(config), names_of(config), opening_of(config))


def open_reader(config: Config) -> EmbeddedReader | KafkaReader:
    """The state for reading, also while a job runs. Raises ConfigError, CorruptedError, RetriableError."""
    if config.input.transport == "kafka":
        # Only here: the client takes a moment to import, which jobs on files need not wait for.
        from streamseg.transports.kafka.reader import KafkaReader

        at_least_once = config.output.delivery == "at-least-once"
        opening = opening_of(config)
        return KafkaReader(connection_of(config), names_of(config), at_least_once=at_least_once, opening=opening)
    return EmbeddedReader(Path(config.embedded.path), partial(source_of, config))


def examine(config: Config, clock: Clock) -> Iterator[Finding]:
    """Is everything there that the job needs?"""
    decoder = EventDecoder(config.job_settings().fields, config.input.max_record_bytes)
    sample = Sample(decoder, clock.now_us(), config.input.deduplicate != "none", schemas_of(config))
    if config.input.transport == "kafka":
        from streamseg.transports.kafka.doctor import examine as examine_kafka

        yield from examine_kafka(connection_of(config), names_of(config), sample, opening_of(config))
        yield from each("output schemas", lambda: written_schemas(sample.schemas, config.job_settings().written))
        return
    if config.input.path is None:
        yield Finding("input", False, "none is named: set input.path, or give brokers with --kafka SERVERS")
        return
    file = Path(config.input.path)
    source = None if config.input.path == STANDARD else lambda: source_of(config, file)
    output = None if config.output.path in (None, STANDARD) else Path(config.output.path)
    state, resume = Path(config.embedded.path), lambda: _resume(config, source)
    yield from examine_files(source, output, state, resume, sample)


def _resume(config: Config, source: Callable[[], Source] | None) -> None:
    """Raises StreamsegError where a run would not go on from the state."""
    with closing(EmbeddedReader(Path(config.embedded.path))) as reader:
        if source is not None:
            reader.check(source())
        restore_model(reader, Job(config.job_settings(), SystemClock(), reader.n_partitions))


def open_kafka(config: Config, worker: str, fault: Callable[[str], None] = lambda point: None) -> KafkaTransport:
    """The job's store on Kafka. Raises StreamsegError."""
    from streamseg.transports.kafka.transport import KafkaTransport

    return KafkaTransport(
        connection_of(config),
        names_of(config),
        worker,
        at_least_once=config.output.delivery == "at-least-once",
        create_topics=config.kafka.create_topics,
        replication_factor=config.kafka.replication_factor,
        start=config.input.start_at,
        skip_lost=config.input.lost == "skip",
        opening=opening_of(config),
        fault=fault,
    )


def restored(config: Config, reader: LogReader) -> Job:
    """The job as of its last commit, for `explain` and `segments`."""
    settings = dataclasses.replace(config.job_settings(), reference=reference_of(config))
    return retried(lambda: restore(reader, settings, SystemClock(), range(reader.n_partitions)))


class Past(NamedTuple):
    """Input that is there already: by partition the first offset, and batches up to where it ended when it was asked for."""

    starts: dict[int, int]
    batches: Iterator[dict[int, Records]]


def past(config: Config) -> Past:
    """The configured file, or topic, read without touching any job's state. Raises ConfigError, RetriableError."""
    if config.input.transport == "kafka":
        return _past_of_topic(config)
    if config.input.path is None or config.input.path == STANDARD:
        raise ConfigError("a replay needs a file that can be read again", hint="name it with --input FILE")
    source = source_of(config, Path(config.input.path))
    return Past({0: 0}, _batches_of(source, config.input.batch_records))


def _batches_of(source: Source, size: int) -> Iterator[dict[int, Records]]:
    position, first = 0, 0
    while True:
        read = source.read(position, size)
        n = len(read.values)
        if n:
            yield {0: Records.of_values(read.values, first)}
        if read.ended or not n:
            return
        position, first = read.position, first + n


def _past_of_topic(config: Config) -> Past:
    reader = open_reader(config)
    assert not isinstance(reader, EmbeddedReader)
    ranges = {partition: reader.input_range(partition) for partition in range(reader.n_partitions)}

    def batches() -> Iterator[dict[int, Records]]:
        at = {partition: first for partition, (first, _) in ranges.items()}
        with closing(reader):
            while any(at[p] < end for p, (_, end) in ranges.items()):
                batch = {}
                for partition, (_, end) in ranges.items():
                    goal = min(at[partition] + config.input.batch_records, end)
                    records = reader.input_records(partition, at[partition], goal) if goal > at[partition] else None
                    at[partition] = goal
                    if records is not None and len(records.offsets):
                        batch[partition] = records
                yield batch

    return Past({partition: first for partition, (first, _) in ranges.items()}, batches())


def rehearse(config: Config, starts: dict[int, int]) -> Rehearsal:
    """A configuration's job in memory. Raises ConfigError."""
    settings = config.job_settings()
    return Rehearsal(settings, SystemClock(), starts, config.input.batch_records, warm_start_of(config))


def rename_segment(config: Config, segment: int, name: str) -> str:
    """Give a segment a name that stays. Returns the name that it had. Raises ConfigError, RetriableError."""
    reader = open_reader(config)

    def model_alone() -> Job:
        job = Job(config.job_settings(), SystemClock(), reader.n_partitions)
        restore_model(reader, job)
        return job

    try:
        job = retried(model_alone)
    finally:
        reader.close()
    before = {known.id: known.name for known in job.state.segments}
    if segment not in before:
        raise ConfigError(f"there is no segment {segment}", hint=f"there are: {', '.join(map(str, before)) or 'none yet'}")
    if name in before.values() and before[segment] != name:
        raise ConfigError(f"another segment has the name {name!r}", hint="names are unique")
    plan = job.plan_rename(segment, name)
    if config.input.transport == "kafka":
        from streamseg.transports.kafka.transport import append

        append(connection_of(config), names_of(config), "rename", plan)
        return before[segment]
    with closing(EmbeddedTransport(Path(config.embedded.path), wiring=Wiring())) as store:
        if store.commit(dataclasses.replace(plan, ownership=store.ownership())).outcome is not Outcome.COMMITTED:
            raise RetriableError("the name could not be written", where=config.embedded.path, hint="try again")
    return before[segment]


def _wiring(config: Config) -> Wiring:
    state = Path(config.embedded.path)
    path = config.input.path
    source: Source | LineStream | None = None
    if path == STANDARD:
        source = LineStream(0)
    elif path is not None:
        source = source_of(config, Path(path))
    output, mode = config.output.path, int(config.output.mode, 8)
    follow = config.input.follow
    if output is None:
        return Wiring(source, follow=follow)
    if output == STANDARD:
        return Wiring(source, standard_output(), state.with_suffix(".dead-letters.jsonl"), mode, follow)
    return Wiring(source, Path(output), dead_letters_path(Path(output)), mode, follow)


def dead_letters_path(tags: Path) -> Path:
    """Beside the tags: tags.jsonl -> tags.dead-letters.jsonl."""
    return tags.with_suffix(".dead-letters.jsonl")


def source_of(config: Config, path: Path, *, at: Path | None = None) -> Source:
    """A file as the configuration reads it; `at`: where it is now. Raises ConfigError."""
    fields, given = config.event_fields(), config.input
    texts = given.time_format is not None
    columns = Columns(given.customer_id, given.event_time, fields.numbers, fields.columns, texts)
    wanted = CsvWanted(given.encoding, given.delimiter, given.decimal, given.thousands)
    return open_source(path, columns, wanted, follow=given.follow, lost=given.lost, at=at)

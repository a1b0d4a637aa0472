"""`streamseg produce`, `repartition`, `redrive`, `doctor`: around a job on Kafka."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from streamseg.application import worker_id
from streamseg.application.wiring import examine, source_of
from streamseg.cli.common import AsJson, ConfigFile, Kafka, Set, configuration, on_kafka, out, process_edge
from streamseg.cli.run import stop_on_signals
from streamseg.config.build import connection_of, names_of
from streamseg.engine.clock import SystemClock
from streamseg.errors import ConfigError, DeadLetterCode, RetriableError
from streamseg.formats.events import EventDecoder
from streamseg.formats.outputs import encode_json
from streamseg.observability.endpoint import look_at
from streamseg.transports.finding import Finding

_PORTION = 500
_ATTEMPTS, _PAUSE_S = 60, 1.0
_MARK = {True: "[green]ok[/]  ", False: "[red]no[/]  ", None: "[yellow]note[/]"}


@process_edge
def produce(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file of events.")],
    config: ConfigFile = None,
    kafka: Kafka = None,
    rate: Annotated[float, typer.Option(min=0.0, help="Events a second; 0: as fast as it goes.")] = 0.0,
    speed: Annotated[float, typer.Option(min=0.0, help="In event time, so many times as fast; 0: not.")] = 0.0,
    partitions: Annotated[int | None, typer.Option(min=1, help="Create the topic with so many, if it is missing.")] = None,
    sets: Set = None,
) -> None:
    """Send a file's events to the input topic, keyed by customer.

    Examples:

        streamseg produce events.jsonl --kafka localhost:9092 --rate 1000

        streamseg produce baskets.parquet --speed 86400
    """
    from streamseg.transports.kafka.feeding import Feeder

    loaded = configuration(config, sets, **on_kafka(kafka)).config
    source = source_of(loaded, file)
    decoder = EventDecoder(loaded.job_settings().fields, loaded.input.max_record_bytes)
    feeder = Feeder(connection_of(loaded), loaded.input.topic, partitions)
    position, sent, ended, pace = 0, 0, False, _Pace(rate, speed)
    try:
        while not ended:
            read = source.read(position, _PORTION)
            position, ended = read.position, read.ended or not read.values
            decoded, _ = decoder.decode([None] * len(read.values), read.values, [0] * len(read.values), 2**62)
            times = dict(zip(decoded.at.tolist(), decoded.times.tolist(), strict=True))
            for i, (customer, value) in enumerate(zip(decoder.ids(read.values), read.values, strict=True)):
                pace.wait(sent + i, times.get(i), feeder.flush)
                feeder.send(None if customer is None else customer.encode(), value)
            feeder.flush()
            sent += len(read.values)
    finally:
        feeder.close()
    out.print(f"sent {sent:,} events to {loaded.input.topic}")


class _Pace:
    """When the next event is due: at a rate, or by its event time."""

    def __init__(self, rate: float, speed: float) -> None:
        self._rate, self._speed = rate, speed
        self._began = time.monotonic()
        self._first_us: int | None = None

    def wait(self, number: int, at_us: int | None, flush: Callable[[], None]) -> None:
        due = number / self._rate if self._rate else 0.0
        if self._speed and at_us is not None:
            self._first_us = at_us if self._first_us is None else self._first_us
            due = max(due, (at_us - self._first_us) / 1e6 / self._speed)
        left = due - (time.monotonic() - self._began)
        if left > 0:
            flush()
            time.sleep(left)


@process_edge
def repartition(
    source: Annotated[str, typer.Argument(help="The topic whose records are not keyed by customer.")],
    config: ConfigFile = None,
    kafka: Kafka = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Create the input with so many, if it is missing.")] = None,
    to_end: Annotated[bool, typer.Option("--to-end", help="Stop when all that is there was sent on.")] = False,
    sets: Set = None,
) -> None:
    """Send a topic on to the input, keyed by customer: each record once. Run it again to go on, or twice to share the work.

    Examples:

        streamseg repartition web-events --partitions 8 --kafka localhost:9092

        streamseg repartition web-events --to-end
    """
    from streamseg.transports.kafka.repartition import Repartition

    loaded = configuration(config, sets, **on_kafka(kafka)).config
    name = f"{loaded.application}-repartition-{source}"
    worker = loaded.worker.id or worker_id.take(name)
    decoder = EventDecoder(loaded.job_settings().fields, loaded.input.max_record_bytes)

    def keys_of(keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[bytes | None]:
        return [key if one is None else one.encode() for key, one in zip(keys, decoder.ids(values), strict=True)]

    stop = stop_on_signals()
    target = loaded.input.topic
    job = Repartition(connection_of(loaded), source, target, name, worker, keys_of, partitions)
    sent = failures = 0
    with closing(job):
        while not stop.is_set():
            try:
                sent += job.step(loaded.input.batch_records)
                failures = 0
                if to_end and job.at_end():
                    break
            except RetriableError:
                failures += 1
                if failures == _ATTEMPTS:
                    raise
                stop.wait(_PAUSE_S)
    out.print(f"sent {sent:,} records of {source} on to {target}")


@process_edge
def redrive(
    config: ConfigFile = None,
    kafka: Kafka = None,
    code: Annotated[list[str] | None, typer.Option(help="Only dead letters of this code; again for more.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only those whose value contains this text.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send them; without it they are only counted.")] = False,
    sets: Set = None,
) -> None:
    """Send dead letters back to the input: each once, in their order. First run shows what would be sent.

    Examples:

        streamseg redrive --kafka localhost:9092

        streamseg redrive --code bad_time --yes
    """
    from streamseg.transports.kafka.feeding import Letter, Redrive

    loaded = configuration(config, sets, **on_kafka(kafka)).config
    known = [member.value for member in DeadLetterCode]
    wrong = sorted(set(code or []) - set(known))
    if wrong:
        raise ConfigError(f"there is no code {wrong[0]!r}", hint=f"codes are {', '.join(known)}")
    job = Redrive(connection_of(loaded), names_of(loaded))
    codes, text = set(code or known), (contains or "").encode()

    def chosen(letter: Letter) -> bool:
        return letter.code in codes and letter.value is not None and text in letter.value

    if yes:
        sent = job.send(chosen)
        out.print(f"sent {sum(sent.values()):,} dead letters back to {loaded.input.topic}{_by_code(sent)}")
        return
    counted = Counter(one.code for one in job.waiting() if chosen(one))
    out.print(f"{sum(counted.values()):,} dead letters would be sent back{_by_code(counted)}; --yes sends them")


def _by_code(counted: Counter[str]) -> str:
    return ": " + ", ".join(f"{name} {n:,}" for name, n in sorted(counted.items())) if counted else ""


@process_edge
def doctor(config: ConfigFile = None, kafka: Kafka = None, as_json: AsJson = False, sets: Set = None) -> None:
    """Look at broker, topics, rights, events and the metrics' port before the job does; one fix a line.

    Of a job on files: at the input, a sample of its events, outputs and state. Exit code 2 if something is wrong.

    Example:

        streamseg doctor --kafka localhost:9092
    """
    loaded = configuration(config, sets, **on_kafka(kafka)).config
    findings = list(examine(loaded, SystemClock()))
    findings.append(Finding("metrics", *look_at(loaded.metrics.address, loaded.metrics.port)))
    if as_json:
        print(encode_json([finding._asdict() for finding in findings]).decode())
    else:
        for finding in findings:
            out.print(f"{_MARK[finding.ok]} {finding.what}: {escape(finding.text)}", soft_wrap=True)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(2)

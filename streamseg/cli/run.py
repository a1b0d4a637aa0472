"""`streamseg run`: the job."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from types import FrameType
from typing import Annotated, Literal

import typer

from streamseg.application.wiring import App, with_worker_id
from streamseg.cli.common import ConfigFile, Kafka, Set, State, configuration, err, on_kafka, process_edge
from streamseg.cli.workers import Supervisor, command_of_one
from streamseg.config import Config
from streamseg.engine.events import InputFormat, Observer, Observers, Waiting
from streamseg.errors import ConfigError
from streamseg.observability.logs import JsonLog
from streamseg.observability.serving import Serving, serving
from streamseg.observability.status import StatusLine
from streamseg.observability.tracing import OtelTracer
from streamseg.runtime.rejection import RejectionWatch
from streamseg.transports.embedded import EmbeddedTransport
from streamseg.transports.files import LineStream


@process_edge
def run(
    input_path: Annotated[str | None, typer.Option("--input", "-i", help="A .jsonl, .csv or .parquet file, or -.")] = None,
    output_path: Annotated[str | None, typer.Option("--output", "-o", help="A file for the tags, or -.")] = None,
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    emit: Annotated[str | None, typer.Option(help="every | changes")] = None,
    segments: Annotated[int | None, typer.Option(help="Number of segments (model.segments).")] = None,
    start: Annotated[str | None, typer.Option(help="Model file to start from (model.start).")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more at the end of the file.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Kafka: so many processes that share the input.")] = 1,
    log: Annotated[Literal["auto", "json", "status"], typer.Option(help="Log lines, or a status line.")] = "auto",
    metrics_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    sets: Set = None,
) -> None:
    """Read events, tag customers, until the input ends.

    Ctrl-C and SIGTERM finish the batch. Run it again to go on: nothing is lost and nothing doubled.

    Examples:

        streamseg run --input events.jsonl --output tags.jsonl --state shop.db

        cat events.jsonl | streamseg run --input - --output - > tags.jsonl

        streamseg run --kafka localhost:9092 --workers 4

        streamseg run -i events.csv -o tags.jsonl --set model.segments=4 --start model.json
    """
    loaded = configuration(
        config,
        sets,
        input__path=input_path,
        **on_kafka(kafka, input_path, output_path, state),
        output__path=output_path,
        embedded__path=state,
        output__emit=emit,
        model__segments=segments,
        model__start=start,
        input__follow=follow or None,
    ).config
    if loaded.input.transport == "embedded" and loaded.input.path is None:
        raise typer.BadParameter(
            "give the events with --input FILE (or - for standard input), or take them from Kafka with --kafka SERVERS"
        )
    stop = stop_on_signals()
    if workers > 1:
        if loaded.input.transport != "kafka" or loaded.worker.id:
            raise typer.BadParameter("--workers takes the events from Kafka, and gives each worker an id of its own")
        raise typer.Exit(Supervisor(command_of_one(), workers, stop, loaded.metrics).run())
    status = log == "status" or (log == "auto" and err.is_terminal)
    run_app(loaded, stop, status=status, metrics_fd=metrics_fd)
    if stop.is_set() and status:
        err.print("stopped; run the same command again to go on")


def run_app(
    config: Config, stop: threading.Event, *, status: bool, table: bool = False, metrics_fd: int | None = None
) -> None:
    """Run the job. Raises StreamsegError."""
    config = with_worker_id(config)
    running: list[App] = []
    told: Observer = (
        StatusLine(err, lambda: remaining(running[0]), table=table)
        if status
        else JsonLog(sys.stderr, config.application, config.worker.id)
    )
    with ExitStack() as stack:
        endpoint = served(config, told, metrics_fd)
        if endpoint is not None:
            stack.callback(endpoint.close)
        tracer = OtelTracer(config.application, config.worker.id) if config.tracing.enabled else None
        if tracer is not None:
            stack.callback(tracer.close)
        rejections = RejectionWatch(
            config.job_settings().fields, told, stop.set if config.input.stop_when_all_fail else None
        )
        observers = Observers(told, rejections, *(endpoint.observers if endpoint else ()))
        application = App(config, observers, stop=stop, tracer=tracer)
        running.append(application)
        if config.input.transport == "embedded" and config.output.path is None:
            message = "no output is named, tags stay in the state: name a file with --output, before events are read"
            told.observe(Waiting("no_output", message, {}))
        for message in cut_off(application):
            told.observe(Waiting("output_cut", message, {}))
        found = "" if application.source is None else application.source.in_words()
        if found:
            told.observe(InputFormat(str(config.input.path), found))
        application.run()
        if config.input.transport == "embedded" or config.input.stop_when_all_fail:
            rejections.check()


def served(config: Config, told: Observer, inherited: int | None) -> Serving | None:
    """The endpoint, if there is to be one. Raises ConfigError where its port is taken.

    A job on files that names neither port nor address does without: several may run beside each other.
    """
    metrics = config.metrics
    if metrics.port == 0 and inherited is None:
        return None
    names = config.model_spec().names
    topic, worker = config.input.topic, config.worker.id
    try:
        return serving(
            config.application, worker, topic, names, metrics.address, metrics.port, inherited, metrics.allowed_hosts
        )
    except ConfigError as error:
        if config.input.transport == "kafka" or metrics.model_fields_set & {"port", "address"}:
            raise
        told.observe(Waiting("no_metrics", error.message, {"port": metrics.port}))
        return None


def cut_off(application: App) -> list[str]:
    """What was cut off the outputs, in words."""
    transport = application.transport
    lost = transport.cut_off if isinstance(transport, EmbeddedTransport) else {}
    return [
        f"{n:,} bytes that were not committed were cut off {path}: the run before ended in the middle of a batch, which "
        "is done again"
        for path, n in lost.items()
        if n
    ]


def remaining(application: App) -> str:
    """How much of the input is left, in words."""
    transport = application.transport
    if not isinstance(transport, EmbeddedTransport):
        lags = transport.lags()
        return f"{sum(lags.values()):,}" if lags else "unknown"
    source = transport.wiring.source
    if source is None or isinstance(source, LineStream):
        return "none" if source is None or source.ended else "unknown"
    return source.remaining(transport.position(source))


def stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop

"""`streamseg spark run`: the job as a query of Structured Streaming."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated, Literal

import typer

from streamseg.cli.common import ConfigFile, Kafka, Set, configuration, on_kafka, process_edge
from streamseg.cli.run import served, stop_on_signals
from streamseg.config import Config
from streamseg.config.sections import WorkerConfig
from streamseg.engine.events import Observers
from streamseg.errors import ConfigError
from streamseg.observability.logs import JsonLog
from streamseg.runtime.rejection import RejectionWatch

spark_app = typer.Typer(no_args_is_help=True, help="Run the segmenter on Apache Spark.")


@spark_app.callback()
def spark() -> None:
    """Run the segmenter on Apache Spark."""


@spark_app.command("run")
@process_edge
def run(
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="A folder that all executors reach.", metavar="DIR")],
    config: ConfigFile = None,
    kafka: Kafka = None,
    once: Annotated[bool, typer.Option("--once", help="End where the topic ends now.")] = False,
    sink: Annotated[
        Literal["transactions", "spark"],
        typer.Option(help="Who publishes: each task, exactly once; or Spark, at least once."),
    ] = "transactions",
    batch_records: Annotated[int, typer.Option(min=1, help="Records of a micro-batch, of all partitions.")] = 100_000,
    conf: Annotated[
        list[str] | None, typer.Option("--conf", help="key=value of Spark, such as spark.master=local[4].")
    ] = None,
    sets: Set = None,
) -> None:
    """Read events from Kafka, tag customers, on Spark Structured Streaming.

    Ctrl-C and SIGTERM end it. Run it again with the same checkpoint to go on: nothing is lost and nothing doubled.
    Without a cluster it runs on this machine.

    Examples:

        streamseg spark run --config streamseg.toml --checkpoint /data/shop

        streamseg spark run --kafka localhost:9092 --checkpoint s3://shop/segments --once --conf spark.master=local[4]

        spark-submit --packages CONNECTOR "$(command -v streamseg)" spark run -c streamseg.toml --checkpoint s3://shop/segments
    """
    loaded = configuration(config, sets, **on_kafka(kafka)).config
    try:
        from streamseg.spark import session
        from streamseg.spark.stream import segment_stream
    except ImportError as error:
        raise ConfigError(f"Spark's engine needs more packages: {error}", hint="pip install 'streamseg[spark]'") from None
    stop = stop_on_signals()
    spark = session.open_session(loaded.application, dict(_setting(text) for text in conf or []))
    with ExitStack() as stack:
        observer = None if session.is_remote(spark) else _observed(loaded, stack)
        writer = segment_stream(
            spark,
            loaded,
            checkpoint=checkpoint,
            transactions=sink == "transactions",
            batch_records=batch_records,
            observer=observer,
        )
        session.run_query(writer.trigger(availableNow=True) if once else writer, stop, observer)


def _observed(config: Config, stack: ExitStack) -> Observers:
    """Log lines and metrics of the driver, as `streamseg run` has them."""
    config = config.model_copy(update={"worker": WorkerConfig(id="spark")})
    log = JsonLog(sys.stderr, config.application, config.worker.id)
    endpoint = served(config, log, None)
    if endpoint is not None:
        stack.callback(endpoint.close)
    rejections = RejectionWatch(config.job_settings().fields, log, None)
    return Observers(log, rejections, *(endpoint.observers if endpoint else ()))


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not key=value", where="--conf", hint="as in --conf spark.master=local[4]")
    return key.strip(), value.strip()

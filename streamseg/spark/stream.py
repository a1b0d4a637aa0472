"""The engine on Spark Structured Streaming: the one place where Spark is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.config import Config
from streamseg.config.build import opening_of
from streamseg.config.start_files import reference_of, warm_start_of
from streamseg.engine.events import Observer
from streamseg.errors import ConfigError
from streamseg.spark.driver import BATCH_RECORDS, Driver
from streamseg.spark.options import spark_options
from streamseg.transports.kafka.opening import Opening

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming import DataStreamWriter


def segment_stream(
    spark: SparkSession,
    config: Config,
    *,
    checkpoint: str,
    transactions: bool = True,
    batch_records: int = BATCH_RECORDS,
    observer: Observer | None = None,
    options: Mapping[str, str] | None = None,
    fault: Callable[[str, int], None] = lambda point, turn: None,
) -> DataStreamWriter:
    """The segmenter as a query of Structured Streaming, from the configured topics to the configured topics.

    Set a trigger if you want one, and call `start()`. The query may be stopped, killed and started again with the same
    checkpoint; `streamseg verify --checkpoint` proves what it did.

    Parameters
    ----------
    spark : SparkSession
        Of Spark 3.5 or later, with spark-sql-kafka of the same version; also a session of Spark Connect.
    config : Config
        As `streamseg run --kafka` takes it, with `model.start` and `metrics.reference`; its internal topics are not used, as
        the logs are in the checkpoint.
    checkpoint : str
        A folder that all executors reach: local, s3://, hdfs:// or whatever fsspec knows. Spark's own part is in `spark`.
    transactions : bool
        True: each task publishes its tags in a transaction, and none is there twice. False: Spark's own sink publishes them,
        so that a micro-batch that is done again leaves the same bytes a second time.
    batch_records : int
        Records of a micro-batch, of all partitions together.
    observer : Observer or None
        Told of each turn: logs, metrics.
    options : mapping of str to str
        More options of Spark's connector, such as `kafka.sasl.jaas.config`.

    Returns
    -------
    pyspark.sql.streaming.DataStreamWriter

    Raises
    ------
    ConfigError
        Where the configuration does not name a topic of Kafka.
    """
    if config.input.transport != "kafka":
        raise ConfigError(
            "the engine on Spark reads from Kafka", where="input.transport", hint='set input.transport = "kafka"'
        )
    # Tasks have other working directories.
    checkpoint = checkpoint.rstrip("/") if "://" in checkpoint else str(Path(checkpoint).absolute())
    wanted = spark_options(config) | dict(options or {})
    driver = Driver(
        config,
        checkpoint,
        transactions=transactions,
        batch_records=batch_records,
        start=warm_start_of(config),
        reference=reference_of(config),
        observer=observer,
        fault=fault,
    )
    events = _events(spark, config, wanted, batch_records, opening_of(config))
    location = f"{checkpoint}/spark"
    return events.writeStream.queryName(config.application).option("checkpointLocation", location).foreachBatch(driver)


def _events(
    spark: SparkSession, config: Config, options: Mapping[str, str], batch_records: int, opening: Opening
) -> DataFrame:
    from pyspark.sql import functions

    source = spark.readStream.format("kafka").options(**options)
    source = source.option("subscribe", config.input.topic).option("startingOffsets", config.input.start_at)
    source = source.option("maxOffsetsPerTrigger", batch_records).option("kafka.isolation.level", "read_committed")
    source = source.option("failOnDataLoss", str(config.input.lost != "skip").lower())
    columns = ["partition", "offset", "key", "value"]
    if opening.cloud_events or opening.headers or opening.key or config.input.registry is not None:
        source, columns = source.option("includeHeaders", "true"), [*columns, "headers"]
    # The clock of a micro-batch is in Spark's offset log: one that is done again has the same.
    return source.load().select(
        *columns,
        functions.expr("unix_millis(timestamp)").alias("ts_ms"),
        functions.expr("unix_micros(current_timestamp())").alias("clock_us"),
    )

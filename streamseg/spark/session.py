"""A session of Spark for the command line, and its queries until they end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from streamseg import errors
from streamseg.engine.events import Observer, Polling
from streamseg.errors import ConfigError, StreamsegError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming import DataStreamWriter

_CONNECTOR = "org.apache.spark:spark-sql-kafka-0-10"
_SCALA = {"3": "2.12", "4": "2.13"}
# An error of ours in a traceback, with its hint in the next line.
_OURS = re.compile(r"streamseg\.errors\.(\w+): (.+(?:\n\s+what to do: .+)?)")
_LOOK_S = 0.5


class _Failure(Protocol):
    def __str__(self) -> str: ...


def open_session(name: str, settings: Mapping[str, str]) -> SparkSession:
    """The session that spark-submit began, or a new one. Raises ConfigError where there can be none.

    Parameters
    ----------
    name : str
        As Spark's pages show it.
    settings : mapping of str to str
        Spark's own, such as `spark.master`. The connector for Kafka is fetched in this version of Spark, unless they name
        `spark.jars`, `spark.jars.packages` or `spark.remote`.
    """
    try:
        import pyspark
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigError("Spark is not installed", hint="pip install 'streamseg[spark]'") from None
    # Workers on this machine run the Python that has streamseg.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    for key, value in ({} if _connector_is_given(settings) else connector(pyspark.__version__)).items():
        builder = builder.config(key, value)
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except Exception as error:
        raise ConfigError(
            f"Spark does not begin: {_first_line(error)}",
            hint="Java 17 or later is needed; its packages come from Maven Central, or from --conf spark.jars=FILES",
        ) from error


def connector(version: str) -> dict[str, str]:
    """The setting that fetches the connector for a version of Spark.

    Examples
    --------
    >>> connector("3.5.7")
    {'spark.jars.packages': 'org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7'}
    """
    return {"spark.jars.packages": f"{_CONNECTOR}_{_SCALA[version.partition('.')[0]]}:{version}"}


def _connector_is_given(settings: Mapping[str, str]) -> bool:
    if settings.keys() & {"spark.jars", "spark.jars.packages", "spark.remote"} or "SPARK_REMOTE" in os.environ:
        return True
    # spark-submit has begun the session's JVM, with its own --packages or --jars.
    return "PYSPARK_GATEWAY_PORT" in os.environ


def is_remote(session: SparkSession) -> bool:
    """Whether it is of Spark Connect, so that the driver is another process."""
    return type(session).__module__.startswith("pyspark.sql.connect")


def run_query(writer: DataStreamWriter, stop: Event, observer: Observer | None) -> None:
    """Until the query ends, or `stop` is set. Raises StreamsegError, also of the query's driver and tasks.

    `observer` gets the query's lag, also as a sign of life.
    """
    try:
        query = writer.start()
        while query.isActive:
            if stop.is_set():
                query.stop()
                return
            query.awaitTermination(_LOOK_S)
            progress = query.lastProgress
            if observer is not None and progress is not None and not query.status["isDataAvailable"]:
                observer.observe(polling(progress["sources"][0]))
        failure = query.exception()
    except StreamsegError:
        raise
    except Exception as error:
        raise error_in(error) from error
    if failure is not None:
        raise error_in(failure)


def polling(source: Mapping[str, Any]) -> Polling:
    """The lag of each partition, from Spark's progress report."""
    ends, latest = _offsets(source.get("endOffset")), _offsets(source.get("latestOffset"))
    return Polling(1, tuple(sorted(ends)), {p: max(0, latest.get(p, at) - at) for p, at in ends.items()}, {})


def _offsets(value: Any) -> dict[int, int]:
    """By partition, of {"topic": {"0": 12}}, be it as text."""
    by_topic = json.loads(value) if isinstance(value, str) else value or {}
    return {int(partition): int(at) for partition, at in next(iter(by_topic.values()), {}).items()}


def error_in(failure: _Failure) -> StreamsegError:
    """The error of ours that made a query fail, as Spark passes it on in a traceback's text; else Spark's own."""
    found = _OURS.search(str(failure))
    if found is not None and issubclass(kind := getattr(errors, found[1], StreamsegError), StreamsegError):
        text, _, hint = found[2].partition("\n")
        error = StreamsegError(text.strip(), hint=hint.partition("what to do: ")[2].strip())
        error.exit_code = kind.exit_code
        return error
    return errors.RetriableError(f"Spark's query failed: {_first_line(failure)}", hint="Spark's own log has the details")


def _first_line(failure: _Failure) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[0] if lines else type(failure).__name__

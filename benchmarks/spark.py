"""The engine on Spark against Spark's own pass-through and MLlib's StreamingKMeans, in one session on one broker.

    python -m benchmarks.spark --python PYTHON [--events 400000] [--partitions 4]

PYTHON is that of an environment with streamseg[spark]. All contestants read the same topic and answer each event on a
topic. The pass-through is `foreachBatch` that writes what it reads; StreamingKMeans takes the same features of the same
events, updates its centers with each micro-batch and writes the cluster of each event. CPU is that of the driver, the JVM
and the Python workers; the broker is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

BATCH_RECORDS = 50_000
_LOOK_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


class Meter(threading.Thread):
    """CPU seconds of this process and of all that came from it, also of those that have ended meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ours, self._spent, self._ended = {os.getpid()}, dict[int, int](), threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(_LOOK_S)

    def look(self) -> float:
        for path in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(path.parent.name)
            if pid in self._ours or int(fields[1]) in self._ours:
                self._ours.add(pid)
                self._spent[pid] = int(fields[11]) + int(fields[12])
        return sum(self._spent.values()) / _TICKS


def events(n: int) -> list[tuple[bytes, bytes]]:
    """Key and value: purchases of customers in five groups."""
    import numpy as np

    rng = np.random.default_rng(0)
    customers = rng.integers(0, n // 8, n)
    group = customers % 5
    age = (20 + 12 * group + rng.normal(0, 3, n)).round(1).tolist()
    income = (1000.0 * (1 + group % 3) + rng.normal(0, 120, n)).round(2).tolist()
    purchases = (group + rng.random(n)).round(3).tolist()
    return [
        (b"c%d" % c, b'{"customer_id":"c%d","event_time":%d,"age":%s,"income":%s,"purchases":%s}'
         % (c, 1_700_000_000_000 + i * 60_000, *(str(x).encode() for x in (age[i], income[i], purchases[i]))))
        for i, c in enumerate(customers.tolist())
    ]  # fmt: skip


def in_spark(plan: dict[str, Any]) -> None:
    """In Spark's Python: each contestant once for warming up, then `repeats` times in turn."""
    from pyspark.sql import DataFrame, SparkSession, functions, types

    from streamseg.config import Config
    from streamseg.spark import segment_stream
    from streamseg.spark.session import open_session

    spark: SparkSession = open_session("benchmark", plan["spark"])
    spark.sparkContext.setLogLevel("ERROR")
    servers = plan["config"]["kafka"]["bootstrap_servers"]

    def source() -> DataFrame:
        read = spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers)
        read = read.option("subscribe", plan["config"]["input"]["topic"]).option("startingOffsets", "earliest")
        return read.option("maxOffsetsPerTrigger", BATCH_RECORDS).load()

    def write(frame: DataFrame) -> None:
        out = frame.write.format("kafka").option("kafka.bootstrap.servers", servers)
        out.option("topic", plan["config"]["output"]["topic"]).save()

    def pass_through(where: str) -> Any:
        def each(frame: DataFrame, number: int) -> None:
            write(frame.select("key", "value"))

        return source().writeStream.option("checkpointLocation", where).foreachBatch(each)

    def streaming_kmeans(where: str) -> Any:
        from pyspark.mllib.clustering import StreamingKMeansModel
        from pyspark.mllib.linalg import Vectors

        names = ["age", "income", "purchases"]
        schema = types.StructType([types.StructField(name, types.DoubleType()) for name in names])
        scale = [20.0, 900.0, 1.5]
        model = StreamingKMeansModel([[1.0 + i, 1.0 + i % 3, 1.0 * i] for i in range(5)], [1.0] * 5)

        def each(frame: DataFrame, number: int) -> None:
            parsed = frame.select("key", functions.from_json(functions.expr("cast(value as string)"), schema).alias("x"))
            rows = parsed.select("key", "x.*").rdd
            points = rows.map(lambda row: Vectors.dense([row[i + 1] / scale[i] for i in range(3)])).cache()
            clusters = model.predict(points)
            pairs = rows.map(lambda row: bytes(row[0])).zip(clusters.map(lambda c: b'{"cluster":%d}' % c))
            write(spark.createDataFrame(pairs, "key binary, value binary"))
            model.update(points, 1.0, "batches")
            points.unpersist()

        return source().writeStream.option("checkpointLocation", where).foreachBatch(each)

    def ours(where: str, **model: Any) -> Any:
        config = plan["config"] | {"application": Path(where).name, "model": model}
        return segment_stream(spark, Config.model_validate(config), checkpoint=where, batch_records=BATCH_RECORDS)

    contestants: dict[str, Callable[[str], Any]] = {
        "pass-through": pass_through,
        "streamseg, 5 segments": lambda where: ours(where, segments=5),
        "streamseg, true defaults": ours,
        "StreamingKMeans": streaming_kmeans,
    }
    only = ["pass-through", *(plan["only"] or contestants)]
    measure({name: make for name, make in contestants.items() if name in only}, plan["repeats"])


def measure(contestants: dict[str, Callable[[str], Any]], repeats: int) -> None:
    """Each in turn, until it has read what is there; the first time is for warming up."""
    meter = Meter()
    for repeat in range(repeats + 1):
        for name, make in contestants.items():
            where = tempfile.mkdtemp(prefix="streamseg-benchmark-")
            cpu, wall = meter.look(), time.monotonic()
            query = make(where).trigger(availableNow=True).start()
            query.awaitTermination()
            took = {"name": name, "cpu": meter.look() - cpu, "wall": time.monotonic() - wall}
            if repeat:
                print(json.dumps(took), flush=True)


def compared(name: str, runs: list[dict[str, Any]], peer: str, of_peer: list[dict[str, Any]]) -> str:
    """Medians of the ratios, and of the seconds, in words."""
    cpu, wall = (median(a[what] / b[what] for a, b in zip(runs, of_peer, strict=True)) for what in ("cpu", "wall"))
    seconds = ", ".join(f"{median(one[what] for one in runs):.1f} s {what}" for what in ("cpu", "wall"))
    return f"{name:>26} against {peer:<16} CPU {cpu:5.2f}, wall {wall:5.2f} ({seconds})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", help="these contestants, beside the pass-through")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        in_spark(json.loads(arguments.plan.read_text()))
        return
    from tests.broker import Broker
    from tests.sparks import Spark
    from tests.stores import create_input, names_of, produce

    directory = Path(tempfile.mkdtemp())
    broker, spark = Broker(directory).start(), Spark(arguments.python)
    try:
        names = names_of("benchmark")
        create_input(broker.address, names, arguments.partitions)
        create_input(broker.address, names._replace(input=names.assignments), arguments.partitions)
        made = events(arguments.events)
        for partition in range(arguments.partitions):
            mine = [(key, value, None) for key, value in made if int(key[1:]) % arguments.partitions == partition]
            for first in range(0, len(mine), 50_000):
                produce(broker.address, names.input, partition, mine[first : first + 50_000])
        config = {
            "application": names.application,
            "input": {"transport": "kafka", "topic": names.input},
            "output": {
                "topic": names.assignments,
                "catalog_topic": names.catalog,
                "dead_letter_topic": names.dead_letters,
            },
            "kafka": {"bootstrap_servers": broker.address},
        }
        plan = directory / "plan.json"
        settings = spark.settings | {"spark.master": "local[2]"}
        chosen = {"repeats": arguments.repeats, "only": arguments.only}
        plan.write_text(json.dumps({"spark": settings, "config": config, **chosen}))
        command = [arguments.python, "-m", "benchmarks.spark", "--plan", str(plan)]
        log = directory / "spark.log"
        with log.open("wb") as err:
            said = subprocess.run(
                command, env=spark.environment() | {"JAVA_TOOL_OPTIONS": ""}, stdout=subprocess.PIPE, stderr=err
            )
        took = [json.loads(line) for line in said.stdout.decode().splitlines() if line.startswith("{")]
        if said.returncode or not took:
            raise SystemExit(log.read_text()[-3_000:])
        by_name = {name: [one for one in took if one["name"] == name] for name in dict.fromkeys(one["name"] for one in took)}
        for peer in [name for name in ("pass-through", "StreamingKMeans") if name in by_name]:
            for name, runs in by_name.items():
                print(compared(name, runs, peer, by_name[peer]))
    finally:
        broker.stop()


if __name__ == "__main__":
    main()

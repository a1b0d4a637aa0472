"""A real Apache Spark for tests, from the environment that TEST_SPARK_PYTHON names, with its connector from Maven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.maven import copies, fetched

ROOT = Path(__file__).parents[1]
# Of a version of Spark: Scala's, and what the connector needs; not all mirrors serve each part in each version.
_ARTIFACTS = {
    "4.0": (
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.0.1",
        "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.0.0",
        "org.apache.kafka:kafka-clients:3.9.1",
        "org.apache.commons:commons-pool2:2.12.0",
    ),
    "3.5": (
        "org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7",
        "org.apache.spark:spark-token-provider-kafka-0-10_2.12:3.5.7",
        "org.apache.kafka:kafka-clients:3.4.1",
        "org.apache.commons:commons-pool2:2.11.1",
    ),
}
# For a JVM that lives for a minute, which the second compiler does not pay for.
BRIEF = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1"}


class Spark:
    """One installation: its Python, and the settings that give its sessions the connector."""

    def __init__(self, python: str) -> None:
        said = subprocess.run([python, "-c", "import pyspark; print(pyspark.__version__)"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        self.python, self.version = python, said.stdout.strip()

    @property
    def jars(self) -> str:
        """The connector's files, fetched once and kept."""
        minor = ".".join(self.version.split(".")[:2])
        target = fetched(f"streamseg-test-spark-{minor}", copies(*_ARTIFACTS[minor]))
        return ",".join(str(path) for path in sorted(target.glob("*.jar")))

    @property
    def settings(self) -> dict[str, str]:
        return {
            "spark.jars": self.jars,
            # A task that fails is tried again, as on a cluster.
            "spark.master": "local[2,4]",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
        }

    def environment(self) -> dict[str, str]:
        given = {"PYSPARK_PYTHON": self.python, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
        return os.environ | given | BRIEF

    def run(
        self,
        directory: Path,
        queries: list[dict[str, Any]],
        timeout: float = 240.0,
        settings: Mapping[str, str] | None = None,
    ) -> tuple[int, list[str | None]]:
        """Exit code of the driver's process, and by query how it failed, None where it did not."""
        plan, said = directory / "plan.json", directory / "spark.log"
        plan.write_text(json.dumps({"spark": self.settings | dict(settings or {}), "queries": queries}))
        with said.open("ab") as log:
            done = subprocess.run(
                [self.python, "-m", "tests.integration.spark_queries", str(plan)],
                cwd=directory, env=self.environment(), stdout=subprocess.PIPE, stderr=log, timeout=timeout,
            )  # fmt: skip
        lines = done.stdout.decode().splitlines()
        return done.returncode, [json.loads(line)["failed"] for line in lines if line.startswith('{"failed"')]


def installed(minor: str = "4.0") -> Spark:
    """That of a version, of those that TEST_SPARK_PYTHON names with colons between. Skips where there is none."""
    pythons = list(filter(None, os.environ.get("TEST_SPARK_PYTHON", "").split(":")))
    assert sys.executable not in pythons
    for found in map(Spark, pythons):
        if found.version.startswith(f"{minor}."):
            return found
    reason = f"needs Spark {minor}: TEST_SPARK_PYTHON names the Python of an environment with streamseg[spark]"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

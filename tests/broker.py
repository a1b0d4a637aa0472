"""A real Apache Kafka for tests: one node without containers, from Maven's artifacts, once for a run.

Uses STREAMSEG_TEST_KAFKA (bootstrap servers) where it is set. Without Java and Maven tests skip with the reason; under
CI=true they fail.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.maven import fetched
from tests.waiting import pause

VERSION = "4.1.0"
START_DEADLINE_S = 90.0
_numbers = itertools.count()
# The cluster id of the folder that others are copied from.
_FORMATTED = "AAAAAAAAAAAAAAAAAAAAAA"

# Of a cluster: who is gone is missed within seconds.
_QUICK = "broker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500\nreplica.lag.time.max.ms=4000"

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>broker</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version></dependency>
</dependencies></project>"""

_PROPERTIES = """process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.retention.check.interval.ms=2000
log.segment.delete.delay.ms=100
{more}
"""


def unavailable() -> str:
    """Why there can be no broker; empty where there can."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"needs a Kafka broker: {' and '.join(missing)} not found, and STREAMSEG_TEST_KAFKA not set" if missing else ""


def libraries() -> Path:
    """The broker's jars, fetched once and kept."""
    run = ["dependency:copy-dependencies", "-DoutputDirectory=libs"]
    return fetched(f"streamseg-test-kafka-{VERSION}", [run], _POM.format(version=VERSION)) / "libs"


def formatted() -> Path:
    """A folder of logs as Kafka formats it, made once and kept."""
    target = libraries().parent / "formatted"
    if not (target / "meta.properties").exists():
        draft = Path(tempfile.mkdtemp(dir=target.parent))
        properties = draft / "server.properties"
        listeners = "PLAINTEXT://127.0.0.1:1"
        alone = Nodes((2,))
        properties.write_text(alone.properties(0, listeners=listeners, advertised=listeners, logs=draft / "logs", more=""))
        command = ["java", "-cp", f"{libraries()}/*", "kafka.tools.StorageTool", "format"]
        subprocess.run(
            [*command, "-t", _FORMATTED, "-c", str(properties)], check=True, timeout=60, stdout=subprocess.DEVNULL
        )
        with suppress(OSError):
            (draft / "logs").rename(target)
        shutil.rmtree(draft)
    return target


def done(futures: Mapping[Any, Future[Any]]) -> None:
    """Raises what the broker refused."""
    for future in futures.values():
        future.result(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes(NamedTuple):
    """Nodes of one cluster, each a controller, too.

    Attributes:
        controllers: their ports; number i + 1 is that of place i.
    """

    controllers: tuple[int, ...]
    cluster: str = _FORMATTED

    def properties(self, place: int, **given: object) -> str:
        """What server.properties of one of them says."""
        replicas = len(self.controllers)
        return _PROPERTIES.format(
            number=place + 1,
            voters=",".join(f"{i + 1}@127.0.0.1:{port}" for i, port in enumerate(self.controllers)),
            controller=self.controllers[place],
            replicas=replicas,
            in_sync=min(2, replicas),
            **given,
        )


class Broker:
    """One node on loopback. `stop` and `start` keep its data and its port."""

    def __init__(
        self,
        directory: Path,
        more: str = "",
        listeners: tuple[str, ...] = (),
        advertised: int | None = None,
        nodes: Nodes | None = None,
        place: int = 0,
    ) -> None:
        """`listeners`: protocols beside PLAINTEXT; `more`: lines for server.properties; `advertised`: PLAINTEXT's port.

        `nodes`: of the cluster, in which it has this place; None: it is alone.
        """
        nodes = nodes or Nodes((free_port(),), _uuid())
        self.directory = directory
        self.ports = {name: free_port() for name in ("PLAINTEXT", *listeners)}
        self._properties = directory / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        text = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        self._properties.write_text(
            nodes.properties(
                place,
                listeners=text,
                advertised=text.replace(str(self.ports["PLAINTEXT"]), str(advertised or self.ports["PLAINTEXT"])),
                logs=directory / "logs",
                more=more,
            )
        )
        self._classes = f"{libraries()}/*"
        shutil.copytree(formatted(), directory / "logs")
        meta = directory / "logs" / "meta.properties"
        told = meta.read_text().replace(_FORMATTED, nodes.cluster).replace("node.id=1", f"node.id={place + 1}")
        meta.write_text(re.sub(r"(?m)^directory\.id=.*$", f"directory.id={_uuid()}", told))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    def start(self) -> Broker:
        self.begin()
        self.until_it_listens()
        return self

    def begin(self) -> None:
        log = (self.directory / "broker.log").open("ab")
        command = [
            "java",
            "-Xmx1g",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            self._classes,
            "kafka.Kafka",
            str(self._properties),
        ]
        self._process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        log.close()

    def until_it_listens(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not all(_listens(port) for port in self.ports.values()):
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the broker does not start:\n" + (self.directory / "broker.log").read_text()[-3000:])
            pause()

    def add_scram_user(self, user: str, password: str) -> None:
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        client = AdminClient({"bootstrap.servers": self.address})
        done(client.alter_user_scram_credentials([UserScramCredentialUpsertion(user, scram, password.encode())]))

    def _acl(self, user: str, kind: ResourceType, name: str, what: AclOperation, how: AclPermissionType) -> None:
        pattern = ResourcePatternType.PREFIXED if what is AclOperation.ALL else ResourcePatternType.LITERAL
        if kind is ResourceType.BROKER:
            pattern = ResourcePatternType.LITERAL
        client = AdminClient({"bootstrap.servers": self.address})
        done(client.create_acls([AclBinding(kind, name, pattern, f"User:{user}", "*", what, how)]))

    def allow(self, user: str, *prefixes: str) -> None:
        """All rights on topics, groups and transactional ids that begin so, and on the cluster."""
        kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
        places = [(kind, prefix) for kind in kinds for prefix in prefixes] + [(ResourceType.BROKER, "kafka-cluster")]
        for kind, name in places:
            self._acl(user, kind, name, AclOperation.ALL, AclPermissionType.ALLOW)

    def deny_writing(self, user: str, topic: str) -> None:
        self._acl(user, ResourceType.TOPIC, topic, AclOperation.WRITE, AclPermissionType.DENY)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None


class Cluster:
    """Brokers that hold everything among them: three replicas, of which two have to have a record."""

    def __init__(self, directory: Path, n_brokers: int = 3) -> None:
        nodes = Nodes(tuple(free_port() for _ in range(n_brokers)), _uuid())
        self.brokers = []
        for place in range(n_brokers):
            (directory / str(place)).mkdir(parents=True)
            self.brokers.append(Broker(directory / str(place), _QUICK, nodes=nodes, place=place))

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self, places: Iterable[int] | None = None) -> Cluster:
        """All, or some, at once: one alone has no quorum to begin with."""
        wanted = [self.brokers[place] for place in (range(len(self.brokers)) if places is None else places)]
        for broker in wanted:
            broker.begin()
        for broker in wanted:
            broker.until_it_listens()
        return self

    def kill(self, places: Iterable[int]) -> None:
        for place in places:
            self.brokers[place].stop(signal.SIGKILL)

    def stop(self) -> None:
        # A broker that is asked waits for the others to take over, of which soon there is none.
        self.kill(range(len(self.brokers)))


def _uuid() -> str:
    """A cluster id as Kafka writes them; one that begins with a dash would be an option of its command line."""
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def new_name(what: str = "app") -> str:
    """A name that no other test uses on the same broker."""
    return f"{what}-{os.getpid()}-{next(_numbers)}-{uuid.uuid4().hex[:6]}"


def needed() -> None:
    """Skip, or fail under CI, where there is no broker."""
    reason = unavailable()
    if reason and not os.environ.get("STREAMSEG_TEST_KAFKA"):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session", name="kafka")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker that all tests share, those of other processes of the same run, too."""
    given = os.environ.get("STREAMSEG_TEST_KAFKA")
    if given:
        yield given
        return
    needed()
    directory = tmp_path_factory.getbasetemp()
    with _shared(directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory) as address:
        yield address


@contextmanager
def _shared(directory: Path) -> Iterator[str]:
    """The address of a broker for all processes of a run: the first to ask starts it, and ends it after the last."""
    there = directory / "kafka.address"
    with (directory / "kafka.lock").open("w") as starting, (directory / "kafka.users").open("w") as users:
        mine: Broker | None = None
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not there.exists():
            mine = Broker(Path(tempfile.mkdtemp(prefix="kafka-", dir=directory))).start()
            there.write_text(mine.address)
        address = there.read_text()
        fcntl.flock(starting, fcntl.LOCK_UN)
        try:
            yield address
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if mine is not None:
                fcntl.flock(starting, fcntl.LOCK_EX)
                there.unlink()
                fcntl.flock(starting, fcntl.LOCK_UN)
                # Until everybody who has the address is done.
                fcntl.flock(users, fcntl.LOCK_EX)
                mine.stop()


if __name__ == "__main__":
    node = Broker(Path(tempfile.mkdtemp())).start()
    print(node.address, flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        node.stop()

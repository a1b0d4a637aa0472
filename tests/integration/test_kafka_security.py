"""TLS, passwords, tokens' errors and rights, against a real broker with a certificate made here."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamseg.config import Config
from streamseg.config.build import connection_of
from streamseg.formats.events import EventDecoder
from streamseg.transports.finding import Sample
from streamseg.transports.kafka.doctor import examine
from tests.broker import Broker, needed
from tests.integration.kafka_jobs import Job, OutsideReader, check, stream
from tests.waiting import until

# They share what is started once for them.
pytestmark = pytest.mark.xdist_group("security")
PASSWORD = "correct-horse-7381"
LOGINS = "org.apache.kafka.common.security.plain.PlainLoginModule"
OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)


def certificate(directory: Path, name: str) -> Path:
    """A self-signed certificate for loopback with its key, PEM; and both in one file for the broker."""
    openssl(
        directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip
    both = (directory / f"{name}.key").read_text() + (directory / f"{name}.pem").read_text()
    (directory / f"{name}.both.pem").write_text(both)
    return directory / f"{name}.pem"


@pytest.fixture(scope="module", name="secured")
def _secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Path]]:
    needed()
    directory = tmp_path_factory.mktemp("secured")
    certificate(directory, "broker")
    certificate(directory, "stranger")
    users = " ".join(f'user_{name}="{PASSWORD}"' for name in ("app", "nobody"))
    broker = Broker(
        directory,
        listeners=("SASL_SSL",),
        more=f"""
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.both.pem
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={OAUTH} required;
listener.name.sasl_ssl.plain.sasl.jaas.config={LOGINS} required {users};
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={SCRAM} required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:app
""",
    )
    broker.start()
    yield broker, directory
    broker.stop()


def login(secured: tuple[Broker, Path], tmp_path: Path, **changed: Any) -> dict[str, Any]:
    broker, directory = secured
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return {
        "bootstrap_servers": f"127.0.0.1:{broker.ports['SASL_SSL']}",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "username": "app",
        "password_file": str(tmp_path / "password"),
        "ca_file": str(directory / "broker.pem"),
    } | changed


def refused(secured: tuple[Broker, Path], tmp_path: Path, **changed: Any) -> str:
    """What a worker says that cannot start. Never the password."""
    job = Job(secured[0].address, tmp_path, n_partitions=1, kafka=login(secured, tmp_path, **changed))
    try:
        assert job.start("w0").wait(timeout=90) == 2
        text = " ".join(job.text("w0").split())
        assert PASSWORD not in text
        assert "what to do" in text
        return text
    finally:
        job.close()


def test_a_job_over_tls_with_a_password(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    events = stream(1_000)
    job = Job(secured[0].address, tmp_path, n_partitions=2, kafka=login(secured, tmp_path))
    try:
        job.start("w0")
        job.until_working("w0")
        outside = OutsideReader(job)
        outside.start()
        job.produce(events)
        check(job, outside, events)
        outside.close()
        command = Path(f"/proc/{job.workers['w0'].pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in command
        assert PASSWORD not in job.text("w0")
    finally:
        job.close()


def test_scram_with_a_password(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    broker, _ = secured
    broker.add_scram_user("app", PASSWORD)
    job = Job(broker.address, tmp_path, n_partitions=1, kafka=login(secured, tmp_path, sasl_mechanism="SCRAM-SHA-512"))
    try:
        job.start("w0")
        job.until_working("w0")
        job.produce(stream(300))
        until(job.done, "all events are committed")
    finally:
        job.close()


def unsigned_token(user: str, expires_s: float) -> str:
    """A JWT that the broker's default validator takes, which checks no signature."""

    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': user, 'iat': now - 60, 'exp': now + expires_s})}."


def bearer(secured: tuple[Broker, Path], tmp_path: Path, token: str) -> dict[str, Any]:
    (tmp_path / "token").write_text(token)
    changed = {"sasl_mechanism": "OAUTHBEARER", "token_file": str(tmp_path / "token")}
    return {k: v for k, v in login(secured, tmp_path, **changed).items() if k not in ("username", "password_file")}


def test_a_job_with_a_bearer_token(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    token = unsigned_token("app", 3600)
    job = Job(secured[0].address, tmp_path, n_partitions=1, kafka=bearer(secured, tmp_path, token))
    try:
        job.start("w0")
        job.until_working("w0")
        job.produce(stream(300))
        until(job.done, "all events are committed")
        assert token not in job.text("w0")
    finally:
        job.close()


def test_an_expired_token_is_said_at_the_start(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    token = unsigned_token("app", -30)
    job = Job(secured[0].address, tmp_path, n_partitions=1, kafka=bearer(secured, tmp_path, token))
    try:
        assert job.start("w0").wait(timeout=90) == 2
        text = " ".join(job.text("w0").split())
        assert "does not accept the login" in text
        assert token not in text
    finally:
        job.close()


def test_a_wrong_password_is_said_at_the_start(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("not-" + PASSWORD[:5])
    text = refused(secured, tmp_path, password_file=str(tmp_path / "wrong"))
    assert "does not accept the login" in text


def test_a_wrong_certificate_is_said_at_the_start(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    text = refused(secured, tmp_path, ca_file=str(secured[1] / "stranger.pem"))
    assert "certificate" in text


def test_missing_rights_are_said_at_the_start(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    text = refused(secured, tmp_path, username="nobody")
    assert "permit" in text or "no topic" in text


def sample(job: Job) -> Sample:
    return Sample(EventDecoder(Config.model_validate(job.config).job_settings().fields), 0)


def test_a_dead_letter_topic_that_cannot_be_written_stops_the_job(secured: tuple[Broker, Path], tmp_path: Path) -> None:
    """Nothing is skipped: the batch with the dead letter is not committed."""
    broker, _ = secured
    job = Job(broker.address, tmp_path, n_partitions=1, kafka=login(secured, tmp_path, username="nobody"))
    try:
        broker.allow("nobody", job.names.application, job.names.input)
        job.start("w0")
        job.until_working("w0")
        good = [e for e in stream(300) if b"customer_id" in (e[1] or b"")][:100]
        job.produce(good)
        until(lambda: sum(job.committed().values()) >= 90, "good events are committed")
        broker.deny_writing("nobody", job.names.dead_letters)
        connection = connection_of(Config.model_validate(job.config))
        found = list(examine(connection, job.names, sample(job)))
        lacking = [finding.text for finding in found if finding.what == "rights"]
        assert lacking == [f"this user lacks WRITE on topic {job.names.dead_letters}: grant it"]
        before = job.committed()
        job.produce([(None, b"{broken", None)])
        assert job.workers["w0"].wait(timeout=90) == 2
        assert "permit" in job.text("w0")
        assert job.committed() == before
    finally:
        job.close()

"""The configuration of Kafka as Spark's connector takes it."""

from __future__ import annotations

from pathlib import Path

from streamseg.config import Config
from streamseg.errors import ConfigError

_LOGIN = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def spark_options(config: Config) -> dict[str, str]:
    """Options of reader and writer. Raises ConfigError where Spark's connector cannot do what is set."""
    kafka = config.kafka
    options = {
        "kafka.bootstrap.servers": kafka.bootstrap_servers,
        "kafka.security.protocol": kafka.security_protocol,
    }  # fmt: skip
    if kafka.ca_file is not None:
        options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": str(kafka.ca_file)}
    if kafka.certificate_file is not None:
        raise ConfigError(
            "certificates of clients are not given to Spark's connector",
            where="kafka.certificate_file",
            hint="pass kafka.ssl.keystore.* as `options` of segment_stream",
        )
    if "SASL" in kafka.security_protocol:
        options |= {"kafka.sasl.mechanism": str(kafka.sasl_mechanism)} | _login(config)
    return options


def _login(config: Config) -> dict[str, str]:
    kafka = config.kafka
    module = _LOGIN.get(str(kafka.sasl_mechanism))
    if module is None or kafka.username is None:
        raise ConfigError(
            f"SASL {kafka.sasl_mechanism} is not given to Spark's connector",
            where="kafka.sasl_mechanism",
            hint="pass kafka.sasl.* as `options` of segment_stream",
        )
    if kafka.password_file is not None:
        password = Path(kafka.password_file).read_text(encoding="utf-8").strip()
    else:
        password = "" if kafka.password is None else kafka.password.get_secret_value()
    return {"kafka.sasl.jaas.config": f"{module} required username={_quoted(kafka.username)} password={_quoted(password)};"}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

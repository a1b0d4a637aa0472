from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamseg.config import Config
from streamseg.errors import ConfigError
from streamseg.spark.options import spark_options


def options(**kafka: Any) -> dict[str, str]:
    return spark_options(Config.model_validate({"kafka": {"bootstrap_servers": "broker:9092"} | kafka}))


def test_brokers_and_protocol() -> None:
    assert options() == {"kafka.bootstrap.servers": "broker:9092", "kafka.security.protocol": "PLAINTEXT"}


def test_a_password_is_quoted_as_java_reads_it(tmp_path: Path) -> None:
    (tmp_path / "password").write_text('se"cr\\et\n')
    file = str(tmp_path / "password")
    found = options(security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", username="app", password_file=file)
    assert found["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    assert found["kafka.sasl.jaas.config"] == (
        'org.apache.kafka.common.security.scram.ScramLoginModule required username="app" password="se\\"cr\\\\et";'
    )


def test_a_ca_is_a_truststore() -> None:
    found = options(security_protocol="SSL", ca_file="/etc/ca.pem")
    assert found["kafka.ssl.truststore.location"] == "/etc/ca.pem"
    assert found["kafka.ssl.truststore.type"] == "PEM"


def test_what_is_not_passed_on_is_said() -> None:
    with pytest.raises(ConfigError, match=r"kafka.ssl.keystore"):
        options(security_protocol="SSL", certificate_file="/etc/a.pem", key_file="/etc/a.key")
    with pytest.raises(ConfigError, match="OAUTHBEARER is not given"):
        options(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", token_file="/run/token")

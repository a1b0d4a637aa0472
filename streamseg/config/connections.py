"""The sections of the configuration that say how to reach others: a broker, a schema registry."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from streamseg.config.base import Section


class KafkaConfig(Section):
    bootstrap_servers: str = Field("localhost:9092", min_length=1, description="host:port, several with commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="how")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "PLAIN", description="for SASL_*"
    )
    username: str | None = Field(None, description="for PLAIN and SCRAM")
    password: SecretStr | None = Field(None, description="better: password_file, or STREAMSEG_KAFKA__PASSWORD")
    password_file: str | None = Field(None, description="a file that holds the password")
    token_file: str | None = Field(None, description="OAUTHBEARER: a file with the token, read at each connection")
    ca_file: str | None = Field(None, description="SSL: certificates to trust, PEM; default: the system's")
    certificate_file: str | None = Field(None, description="SSL: this client's certificate, PEM")
    key_file: str | None = Field(None, description="SSL: its key, PEM")
    key_password_file: str | None = Field(None, description="SSL: a file that holds the key's password")
    proxy_url: SecretStr | None = Field(None, description="socks5:// or http:// proxy to reach the broker through")
    create_topics: bool = Field(True, description="create our topics where they are missing; the input never")
    replication_factor: int = Field(-1, ge=-1, description="of topics that are created; -1: the broker's default")
    session_timeout_ms: int = Field(6_000, ge=1_000, le=300_000, description="silence after which others take over")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.security_protocol.startswith("SASL"):
            return self
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.token_file is None:
                raise ValueError("OAUTHBEARER needs token_file")
        elif self.username is None or (self.password is None and self.password_file is None):
            raise ValueError(f"{self.sasl_mechanism} needs username, and password_file or password")
        return self


class RegistryConfig(Section):
    url: str = Field(
        min_length=1, pattern=r"^https?://", description="of Confluent's API; of Apicurio it ends in /apis/ccompat/v7"
    )
    username: str | None = Field(None, description="for basic authentication")
    password: SecretStr | None = Field(None, description="better: STREAMSEG_INPUT__REGISTRY__PASSWORD")
    token: SecretStr | None = Field(None, description="a bearer token; better: STREAMSEG_INPUT__REGISTRY__TOKEN")
    ca_file: str | None = Field(None, description="certificates to trust, PEM; default: the system's")
    certificate_file: str | None = Field(None, description="this client's certificate, PEM")
    key_file: str | None = Field(None, description="its key, PEM")

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, url: str) -> str:
        """Raises ValueError."""
        if "@" in url.partition("//")[2].partition("/")[0]:
            raise ValueError("the URL has credentials, which would show: give username and password")
        return url

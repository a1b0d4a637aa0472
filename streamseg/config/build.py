"""How the configuration says to reach others: a broker, a schema registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.config import Config
from streamseg.formats.wire import NO_REGISTRY, SchemaSource
from streamseg.transports.registry import Registry, RegistryAccess

# Kafka's client takes a moment to import, which jobs on files need not wait for.
if TYPE_CHECKING:
    from streamseg.transports.kafka.client import Connection
    from streamseg.transports.kafka.opening import Opening
    from streamseg.transports.kafka.topics import Names


def opening_of(config: Config) -> Opening:
    """What of a Kafka record is read as the event."""
    from streamseg.transports.kafka.opening import Opening

    paths = config.event_fields().paths
    return Opening.of(paths, config.input.key_format, cloud_events=config.input.preset == "cloudevents")


def schemas_of(config: Config) -> SchemaSource:
    """The schema registry, where there is one. Raises ConfigError."""
    given = config.input.registry
    if given is None:
        return NO_REGISTRY
    password, token = (None if one is None else one.get_secret_value() for one in (given.password, given.token))
    return Registry(
        RegistryAccess(given.url, given.username, password, token, given.ca_file, given.certificate_file, given.key_file)
    )


def connection_of(config: Config) -> Connection:
    """How to reach the broker."""
    from streamseg.transports.kafka.client import Connection

    kafka = config.kafka
    return Connection(
        kafka.bootstrap_servers,
        kafka.security_protocol,
        kafka.sasl_mechanism,
        kafka.username,
        None if kafka.password is None else kafka.password.get_secret_value(),
        kafka.password_file,
        kafka.token_file,
        kafka.ca_file,
        kafka.certificate_file,
        kafka.key_file,
        kafka.key_password_file,
        None if kafka.proxy_url is None else kafka.proxy_url.get_secret_value(),
        kafka.session_timeout_ms,
    )


def names_of(config: Config) -> Names:
    """All topics of the application."""
    from streamseg.transports.kafka.topics import Names

    output = config.output
    return Names(config.application, config.input.topic, output.topic, output.catalog_topic, output.dead_letter_topic)

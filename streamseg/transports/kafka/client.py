"""Where kafka-python is imported: clients with safe settings, and its errors as ours.

The settings are not a matter of taste. `linger + request timeout <= delivery timeout < transaction timeout`: otherwise a
batch of records may expire after its transaction, or a transaction before its records. Every consumer reads committed
records only, also the one that is asked for committed offsets: otherwise it would not wait for transactions in flight.
Nothing resets an offset by itself: a reader behind a truncated log would jump or skip without a word.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove, OffsetSpec
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from streamseg.errors import ConfigError, CorruptedError, FencedError, RetriableError, StreamsegError, TruncatedError

__all__ = [
    "Assignor",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "FutureRecordMetadata",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "MemberState",
    "MemberToRemove",
    "MemoryRecordsBuilder",
    "OffsetAndMetadata",
    "OffsetSpec",
    "ProducerBatch",
    "TopicPartition",
    "kafka_errors",
]


class _Reasons(logging.Handler):
    """The client's last complaints. Why it cannot connect it only logs; the error says that time is up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: deque[tuple[float, str]] = deque(maxlen=50)

    def emit(self, record: logging.LogRecord) -> None:
        self.last.append((time.monotonic(), record.getMessage()))

    def _texts(self) -> list[str]:
        """Of late: what was mended since explains nothing."""
        return [text for at, text in self.last if time.monotonic() - at < _RECENT_S]

    def found(self, *signs: str) -> bool:
        return any(sign in text for text in self._texts() for sign in signs)

    def hung_up(self) -> bool:
        """Whether each attempt to connect ended with the broker closing the connection.

        A refused login looks so where the broker's answer and its hanging up come together: the client then drops what was
        said last.
        """
        attempts = [text for text in self._texts() if text.startswith("Bootstrap connection")]
        return bool(attempts) and all("socket disconnected" in text for text in attempts)


_REASONS = _Reasons()
_LOG = logging.getLogger("kafka")
_LOG.setLevel(logging.WARNING)
_LOG.propagate = False
_LOG.addHandler(_REASONS)

LINGER_MS = 5
REQUEST_TIMEOUT_MS = 5_000
DELIVERY_TIMEOUT_MS = 8_000
TRANSACTION_TIMEOUT_MS = 10_000
SESSION_TIMEOUT_MS = 6_000
# A batch of records is a message to the broker, which takes 1,048,588 bytes by default.
_BATCH_BYTES = 900_000
CLOSE_S = 2.0
_FETCH_BYTES = 4_000_000
# A complaint of the client explains an error for so long.
_RECENT_S = 15.0


@dataclass(frozen=True)
class Connection:
    """How to reach the broker. Secrets are read from their files when a client is made, and are in no repr."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password_file: str | None = None
    proxy_url: str | None = field(default=None, repr=False)
    session_timeout_ms: int = SESSION_TIMEOUT_MS

    def options(self) -> dict[str, Any]:
        """Settings for any client. Raises ConfigError where a file cannot be read."""
        servers = [server.strip() for server in self.bootstrap_servers.split(",")]
        options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "bootstrap_timeout_ms": DELIVERY_TIMEOUT_MS,
            "reconnect_backoff_max_ms": 1_000,
            "metadata_max_age_ms": 10_000,
        }
        if self.proxy_url is not None:
            options["proxy_url"] = self.proxy_url
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            if self.sasl_mechanism == "OAUTHBEARER":
                options["sasl_oauth_token_provider"] = _FileToken(self.token_file or "")
            else:
                options["sasl_plain_username"] = self.username
                secret = self.password if self.password_file is None else _secret(self.password_file, "kafka.password_file")
                options["sasl_plain_password"] = secret
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                password = _secret(self.key_password_file, "kafka.key_password_file") if self.key_password_file else None
                context.load_cert_chain(self.certificate_file, self.key_file, password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot use the certificates: {error.strerror or type(error).__name__}",
                where="kafka.ca_file, kafka.certificate_file, kafka.key_file",
                hint="give PEM files that this user may read",
            ) from None
        return context


class _FileToken(AbstractTokenProvider):  # type: ignore[misc]
    """A bearer token from a file that somebody keeps fresh: read at each connection."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def token(self) -> str:
        return _secret(self._path, "kafka.token_file")


def expired(token: str, now_s: float) -> bool:
    """Whether a token says of itself that its time is over (`exp`, RFC 7519); one that says nothing is not."""
    try:
        content = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
        return float(claims["exp"]) < now_s
    except (IndexError, KeyError, TypeError, ValueError):
        return False


def _secret(path: str, key: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the secret: {error.strerror}", where=key) from None


def consumer(connection: Connection, **options: Any) -> KafkaConsumer:
    """A consumer of committed records that commits nothing by itself and resets no offset."""
    settings = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "max_partition_fetch_bytes": _FETCH_BYTES,
        "fetch_max_wait_ms": 100,
        "metrics_enabled": False,
    }
    with translated("connecting"):
        return KafkaConsumer(**connection.options(), **(settings | options))


class Assignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Shares partitions as its base class does, and keeps the client's coordinator from forgetting a join.

    A leader joins again when it learns of partitions, and takes that for done as soon as it has shared them. If a poll ends
    before its own share has come, no later one asks for it: without partitions and without heartbeats, for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self.request_rejoin: Callable[[], None] = lambda: None

    def metadata(self, topics: Any) -> Any:
        """Asked for at the beginning of each join; what is requested here is taken back at its end."""
        self.request_rejoin()
        return super().metadata(topics)


def group_consumer(connection: Connection, group: str, instance: str | None, assignor: Assignor) -> KafkaConsumer:
    """A consumer that shares the input with the group; a stable instance comes back without a rebalance."""
    made = consumer(
        connection,
        group_id=group,
        group_instance_id=instance,
        partition_assignment_strategy=(assignor,),
        session_timeout_ms=connection.session_timeout_ms,
        heartbeat_interval_ms=connection.session_timeout_ms // 4,
    )
    assignor.request_rejoin = made._coordinator.request_rejoin
    return made


def producer(connection: Connection, transactional_id: str | None, **options: Any) -> KafkaProducer:
    """An idempotent producer; with an id its transactions are to be begun by `init_transactions`."""
    if transactional_id is not None:
        options |= {"transactional_id": transactional_id, "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
    with translated("connecting"):
        return KafkaProducer(
            **connection.options(),
            metrics_enabled=False,
            acks="all",
            linger_ms=LINGER_MS,
            batch_size=_BATCH_BYTES,
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            max_block_ms=DELIVERY_TIMEOUT_MS,
            allow_auto_create_topics=False,
            **options,
        )


def admin(connection: Connection) -> KafkaAdminClient:
    """The client that is made first. Raises ConfigError where the broker is there and wants no connection."""
    _REASONS.last.clear()
    try:
        with translated("connecting"):
            return KafkaAdminClient(**connection.options())
    except RetriableError:
        if connection.token_file is not None and expired(_secret(connection.token_file, "kafka.token_file"), time.time()):
            # Of a busy broker that is all that is heard of it: no connection.
            raise ConfigError(
                "the broker does not accept the login: the token has expired",
                where="kafka.token_file",
                hint="see to it that whoever writes the file keeps it fresh",
            ) from None
        if not _REASONS.hung_up():
            raise
        raise ConfigError(
            "the broker closes every connection: it does not accept the login, or speaks another security protocol",
            where="connecting",
            hint="check kafka.security_protocol, kafka.sasl_mechanism, kafka.username and the password, or the token",
        ) from None


_Client = TypeVar("_Client", KafkaProducer, KafkaConsumer, KafkaAdminClient)


def discard(client: KafkaProducer | KafkaConsumer | KafkaAdminClient) -> None:
    """Close. What a producer can no longer deliver is not waited for; its sender's thread is a daemon."""
    options = {"timeout": CLOSE_S} if isinstance(client, KafkaProducer) else {}
    # It is going away; what it had to say was said.
    with suppress(kafka_errors.KafkaError, OSError):
        client.close(**options)


@contextmanager
def discarded(client: _Client) -> Iterator[_Client]:
    try:
        yield client
    finally:
        discard(client)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """kafka-python's errors as ours."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise ours(error, where) from None
    except (OSError, TimeoutError) as error:
        raise RetriableError(f"cannot reach the broker: {error}", where=where) from None


@contextmanager
def polling(where: str) -> Iterator[None]:
    """As `translated`, around a poll. Who polls again after a batch that cannot be read waits for ever."""
    with translated(where):
        try:
            yield
        except kafka_errors.CorruptRecordError as error:
            raise CorruptedError(
                f"a batch of records is damaged: {error}",
                where=where,
                hint="start again; if it is still damaged, restore it from a replica, or, if it is of the input, delete the "
                'records up to it (kafka-delete-records.sh) and set input.lost = "skip"',
            ) from None
        except kafka_errors.UnsupportedCodecError as error:
            raise ConfigError(
                f"records are compressed as nobody here can read them: {error}",
                where=where,
                hint="let producers use gzip, snappy, lz4, zstd or none",
            ) from None


def ours(error: BaseException, where: str) -> StreamsegError:
    """By what its reader should do."""
    # A producer that has failed says so with the cause beside it.
    error = next((cause for cause in error.args if isinstance(cause, kafka_errors.KafkaError)), error)
    name = type(error).__name__
    refused = _refused(error, where)
    if refused is not None:
        return refused
    said = str(error).removeprefix(f"{name}: ")
    text = f"{name}: {said}" if said else name
    if "Unable to bootstrap" in said:
        return RetriableError(
            said, where=where, hint="is the broker there? Check kafka.bootstrap_servers (flag --kafka) and the network"
        )
    if isinstance(error, kafka_errors.FencedInstanceIdError):
        return FencedError(
            "another worker runs with the same worker.id", where=where, hint="give each worker an id of its own"
        )
    if isinstance(error, kafka_errors.OffsetOutOfRangeError):
        return TruncatedError("records were deleted while they were read", where=where, hint="try again")
    if isinstance(error, kafka_errors.AuthorizationError):
        return ConfigError(
            f"the broker does not permit it: {text}",
            where=where,
            hint="grant the user rights on the application's topics, group and transactional ids: see `streamseg doctor`",
        )
    if isinstance(error, kafka_errors.MessageSizeTooLargeError | kafka_errors.RecordListTooLargeError):
        return ConfigError(
            f"the broker takes no records of this size: {text}",
            where=where,
            hint="set max.message.bytes of the topic to at least 1048588",
        )
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError | kafka_errors.InvalidTopicError):
        return ConfigError(f"there is no such topic: {text}", where=where, hint="create it, or correct its name")
    if isinstance(error, kafka_errors.KafkaConfigurationError | kafka_errors.UnsupportedVersionError):
        return ConfigError(f"the client cannot work with this broker: {text}", where=where)
    return RetriableError(f"Kafka: {text}", where=where)


def _refused(error: BaseException, where: str) -> ConfigError | None:
    """A connection that will never be made."""
    waited = isinstance(error, kafka_errors.KafkaTimeoutError | kafka_errors.KafkaConnectionError)
    denied = isinstance(error, kafka_errors.SaslAuthenticationFailedError | kafka_errors.UnsupportedSaslMechanismError)
    if denied or (waited and _REASONS.found("SaslAuthenticationFailed", "UnsupportedSaslMechanism")):
        return ConfigError(
            "the broker does not accept the login",
            where=where,
            hint="check kafka.sasl_mechanism, kafka.username and the password, or the token",
        )
    if waited and _REASONS.found("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "SSLError"):
        return ConfigError(
            "the broker's certificate is not trusted, or it wants another one of ours",
            where=where,
            hint="set kafka.ca_file to the certificate that signed the broker's, and check kafka.certificate_file",
        )
    return None

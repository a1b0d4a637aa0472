"""Errors whose class is the reaction of whoever catches them.

A message says what happened, where, and what to do: ``message``, ``where`` and ``hint``.
"""

from __future__ import annotations

from enum import StrEnum


class DeadLetterCode(StrEnum):
    """Why an input record could not be used. A closed list: consumers may switch on it."""

    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    UNKNOWN_SCHEMA = "unknown_schema"
    NOT_OF_SCHEMA = "not_of_schema"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_CUSTOMER_ID = "missing_customer_id"
    WRONG_TYPE = "wrong_type"
    NOT_FINITE = "not_finite"
    BAD_TIME = "bad_time"
    MISSING_TIME = "missing_time"
    FUTURE_TIME = "future_time"
    IMPLAUSIBLE_TIME = "implausible_time"
    TOO_LARGE = "too_large"
    UNUSABLE = "unusable"


class StreamsegError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        exit_code: what a command that ends with this error returns to the shell.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.message
        if self.where:
            text += f" ({self.where})"
        if self.hint:
            text += f"\n  what to do: {self.hint}"
        return text


class ConfigError(StreamsegError):
    """The user has to change something before anything can start."""

    exit_code = 2


class SettingsError(ConfigError):
    """A state was written with other settings.

    Attributes:
        written: those that tags depend on, canonical JSON of dotted keys.
    """

    def __init__(self, message: str, written: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.written = written


class DifferenceError(StreamsegError):
    """`verify` found the first place where logs and tags disagree."""

    exit_code = 3
    _OF_LOGS = "the logs were changed, or other code wrote them: run the version that did, or restore them from a backup"

    def __init__(self, message: str, *, where: str = "", hint: str = _OF_LOGS) -> None:
        super().__init__(message, where=where, hint=hint)


class CorruptedError(StreamsegError):
    """Stored bytes are not what was written: stop, restore from the snapshot before."""

    exit_code = 4


class TruncatedError(CorruptedError):
    """A log no longer has what was asked for: a snapshot stands in its place. Who lagged behind restores from that."""


class RetriableError(StreamsegError):
    """Nothing of the batch was kept: abort, restore, retry."""

    exit_code = 5


class FencedError(StreamsegError):
    """Somebody else owns the work now: drop state, rejoin (or stop, where there is nothing to join)."""

    exit_code = 6


class RejectedInputError(StreamsegError):
    """No record of the input could be used: all are dead letters, and the offsets behind them are committed."""

    exit_code = 7


class RecordError(StreamsegError):
    """One input record cannot be used: it becomes a dead letter in the same transaction."""

    def __init__(self, code: DeadLetterCode, message: str, field: str = "") -> None:
        super().__init__(message, where=field)
        self.code = code
        self.field = field

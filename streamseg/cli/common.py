"""What all commands share: flags to configuration, errors to exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from streamseg.config import Config, Loaded, load, parse_assignment
from streamseg.core.model.external import hashes_are_fixed
from streamseg.errors import ConfigError, RetriableError, StreamsegError

P = ParamSpec("P")
R = TypeVar("R")

# Into a pipe or a file tables are as wide as they need to be.
_WIDE = 200
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False)

# Of files that are named errors say which.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

EXIT_CODES = """
Exit codes: 0 done; 1 a defect of the program; 2 wrong settings, flags or files; 3 `verify` found a difference;
4 stored bytes are damaged; 5 could not write, or not read in time (disk full, broker away, ...), nothing was lost: run it
again; 6 another process has taken over; 7 no record of the input could be used.
"""

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; default: streamseg.toml.")]
State = Annotated[str | None, typer.Option("--state", "-s", help="State file (embedded.path); default: streamseg.db.")]
Kafka = Annotated[
    str | None, typer.Option("--kafka", help="Work on Kafka at these servers (input.transport, kafka.bootstrap_servers).")
]
Checkpoint = Annotated[
    str | None, typer.Option("--checkpoint", help="Read the state that `streamseg spark run` keeps here.", metavar="DIR")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value for any key, such as model.segments=5.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


# Keys of credentials, which a list of processes would show.
_SECRETS = ("kafka.password", "input.registry.password", "input.registry.token")


def configuration(file: Path | None, sets: list[str] | None, **flags: Any) -> Loaded:
    """Flags by their dotted key with __ for the dot; --set for the others."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    given |= dict(parse_assignment(text) for text in sets or [])
    _refuse_secrets(given)
    loaded = load(file, given)
    fix_hashes(loaded.config)
    return loaded


def _flat(given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of tables within tables, dotted."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _refuse_secrets(given: dict[str, Any]) -> None:
    """Raises ConfigError where a flag holds a credential, be it in a TOML table."""
    for key, value in _flat(given):
        if key in _SECRETS or (key in ("kafka.proxy_url", "input.registry", "input.registry.url") and "@" in str(value)):
            raise ConfigError(
                "a password does not go on a command line, where every user of this machine can read it",
                where=f"--set {key}",
                hint=f"use the variable STREAMSEG_{key.upper().replace('.', '__')}, or of Kafka a password_file",
            )


def fix_hashes(config: Config) -> None:
    """Begin again where a model of somebody else's needs fixed hashes: only a process that begins with them has them."""
    if config.model.factory is not None and not hashes_are_fixed():
        sys.stdout.flush()
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "streamseg", *sys.argv[1:]], environment)


def on_kafka(servers: str | None, *files: object) -> dict[str, str | None]:
    """Flags of --kafka SERVERS. Without it a flag that names a file means files, whatever the environment says."""
    named = any(file is not None for file in files)
    transport = "kafka" if servers is not None else "embedded" if named else None
    return {"input__transport": transport, "kafka__bootstrap_servers": servers}


def process_edge(command: Callable[P, R]) -> Callable[P, R]:
    """The edge of the process: errors become a message and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            done = command(*args, **kwargs)
            sys.stdout.flush()
            return done
        except StreamsegError as error:
            return _ended(error)
        except BrokenPipeError:
            # The reader of our output has gone, which is no news to whoever sent it away.
            _forget(sys.stdout)
            raise typer.Exit(RetriableError.exit_code) from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _forget(sys.stdout)
            return _ended(RetriableError(f"cannot write to standard output: {error.strerror}", hint="free space, try again"))

    return run


def _ended(error: StreamsegError) -> NoReturn:
    try:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
    except OSError:
        # Who asked for it cannot be told more than the exit code says.
        _forget(sys.stderr)
    raise typer.Exit(error.exit_code) from None


def _forget(stream: TextIO) -> None:
    """What a stream still holds goes nowhere, also at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

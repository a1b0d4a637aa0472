"""Where outputs go: a file that holds committed bytes only, or standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from streamseg.errors import ConfigError, CorruptedError, RetriableError
from streamseg.transports.at_rest import OWNER_ONLY, opened

# How our records begin: tags, erased customers, dead letters.
_RECORDS = (b'{"schema_version":', b'{"customer_id":', b'{"code":')
# Of what is behind the committed bytes, so much is looked at.
_SURPLUS_BYTES = 1_000_000


class FileSink:
    """A file that only committed bytes belong to."""

    def __init__(self, path: Path, committed: int | None, mode: int = OWNER_ONLY) -> None:
        """`committed` bytes, None for a file that this state has not written to yet; `mode`: of a file that is made.

        Raises ConfigError where the file is somebody else's, CorruptedError where it lost committed bytes.
        """
        self.path = path
        self.length = committed or 0
        self.written = self.length
        if committed and not path.exists():
            raise CorruptedError(
                f"the output file is gone, {committed} bytes of it were committed",
                where=str(path),
                hint="put it back, or start a new state and a new output",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(opened(path, os.O_WRONLY | os.O_APPEND, mode), "ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"cannot write the output file: {error}") from None
        self._regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        size = self._file.seek(0, os.SEEK_END) if self._regular else 0
        if committed is None and size:
            self._file.close()
            raise ConfigError(
                f"the output file {str(path)!r} exists and was not written by this state",
                hint="choose another --output, or move the file away",
            )
        if self._regular and size < self.length:
            self._file.close()
            raise CorruptedError(
                f"the output file has {size} bytes, {committed} were committed",
                where=str(path),
                hint="put the file back, or start a new state and a new output",
            )

        self.surplus = max(0, size - self.length) if self._regular else 0
        if self.surplus:
            self._check_surplus()

    def _check_surplus(self) -> None:
        """Raises ConfigError where what is behind the committed bytes is not what a crash left of our records."""
        with self.path.open("rb") as file:
            file.seek(self.length)
            # Where power was lost, what was not synced may be zeros.
            lines = file.read(_SURPLUS_BYTES).replace(b"\0", b"").split(b"\n")
        if any(line and not any(line.startswith(one[: len(line)]) for one in _RECORDS) for line in lines):
            self._file.close()
            raise ConfigError(
                f"the output file has {self.surplus} bytes behind the {self.length} that were committed, which are no "
                "records of ours: somebody else appended them",
                where=str(self.path),
                hint=f"keep them elsewhere (tail -c {self.surplus} FILE), and cut them off (truncate -s {self.length} FILE)",
            )

    def append(self, data: bytes) -> None:
        """Write behind the committed bytes, not yet durable. Raises RetriableError."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        self.written += len(data)

    def sync(self) -> None:
        """Make what was appended durable. Raises RetriableError."""
        if self.written == self.length or not self._regular:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def cut(self) -> None:
        """Drop what is not committed: what is behind `length`."""
        self.written = self.length
        if self._regular:
            self._file.truncate(self.length)

    def close(self) -> None:
        self._file.close()


class StreamSink:
    """Standard output: what it was given cannot be taken back, so it is given committed records only."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, values: Sequence[bytes]) -> None:
        """Raises BrokenPipeError where the reader has gone, RetriableError where the records cannot be written."""
        try:
            self._stream.write(b"".join(value + b"\n" for value in values))
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _cannot_write(Path("standard output"), error) from None


def standard_output() -> StreamSink:
    return StreamSink(sys.stdout.buffer)


def _cannot_write(path: Path, error: OSError) -> RetriableError:
    return RetriableError(
        f"cannot write: {error.strerror}", where=str(path), hint="free space, then run the same command again"
    )

"""The engine's half of a checkpoint: what each turn of a micro-batch made, in files that are whole or not there.

    heads/<turn>            the model after a turn, and which input positions are committed
    model/<turn>            records of the model log
    customers/<p>/<turn>    records of the customer log of partition p, and what else the turn made of it

A turn counts once its head is there: what a turn left that was cut off is written again. Files are on whatever fsspec
reaches (a local disk, s3://, hdfs://), and each is written under another name first.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

import fsspec
import msgspec

from streamseg.core.model.codec import pack, unpack
from streamseg.engine.log_records import Mark, OffsetMetadata
from streamseg.engine.ports import Committed, Log
from streamseg.errors import ConfigError, CorruptedError, TruncatedError
from streamseg.formats.frames import entries

T = TypeVar("T")

# Offsets of a turn's records in a log: turn * _EACH and on.
_EACH = 1_000_000
_NUMBER = re.compile(r"\d{12}")
_LATEST = 2  # heads that are kept whatever they are needed for
FORMAT_VERSION = 1


class Head(msgspec.Struct):
    """What holds after a turn.

    Attributes:
        id: of the checkpoint: another one at the same place has another.
        turn, batch: of which micro-batch it was a turn; complete: the last one of it.
        clock_us: the clock of the micro-batch.
        committed: by partition, the input position, and the metadata that go with it.
        catalogs: how often the catalog was published; marks: by partition, where it stands, and how many customers it has.
        snapshot: records of a snapshot of the model.
    """

    format_version: int
    id: bytes
    turn: int
    batch: int
    complete: bool
    clock_us: int
    n_partitions: int
    version: int
    committed: dict[int, tuple[int, str]]
    catalogs: int
    marks: dict[int, tuple[Mark, int]]
    snapshot: list[bytes]


class Part(msgspec.Struct):
    """What a turn made of one partition.

    Attributes:
        customers, model: records of the logs.
        committed: the input position behind it, with its metadata; catalog: (key, value).
        mark: where it stands, and how many customers it has; rest: whether records are left for the next turn.
    """

    customers: list[bytes]
    model: list[bytes]
    committed: tuple[int, str]
    catalog: list[tuple[bytes, bytes]]
    mark: tuple[Mark, int]
    rest: bool


class Store:
    """Files of one checkpoint."""

    def __init__(self, root: str) -> None:
        """`root`: a folder, or an address that fsspec knows. Raises ConfigError where it cannot be reached."""
        self.root = root.rstrip("/")
        try:
            self._files, self._path = fsspec.core.url_to_fs(f"{self.root}/segments")
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"the checkpoint {self.root} cannot be reached: {error}",
                where="--checkpoint",
                hint="a folder, or s3://, hdfs:// and the like with fsspec's package for it",
            ) from None

    def spark_begins(self, topic: str) -> dict[int, int]:
        """Where Spark began to read, by partition, as its own part of the checkpoint says. Raises CorruptedError."""
        path = self._path.removesuffix("/segments") + "/spark/sources/0/0"
        try:
            with self._files.open(path, "rb") as file:
                text = file.read().decode("utf-8", "replace")
            # A line with a version stands before it.
            return {int(partition): int(offset) for partition, offset in json.loads(text[text.index("{") :])[topic].items()}
        except (OSError, ValueError, KeyError) as error:
            raise CorruptedError(
                f"Spark's first offsets of {topic} cannot be read: {error}",
                where=path,
                hint="begin with another --checkpoint, and with an application name of its own",
            ) from error

    def offset(self, turn: int, place: int = 0) -> int:
        """In a log, of a turn's record."""
        return turn * _EACH + place

    # -- Files --------------------------------------------------------------------------------------------------------

    def _put(self, path: str, value: object) -> None:
        folder, name = f"{self._path}/{path}".rsplit("/", 1)
        self._files.makedirs(folder, exist_ok=True)
        draft = f"{folder}/.{name}.{os.getpid()}"
        with self._files.open(draft, "wb") as out:
            out.write(pack(value))
            out.flush()
            with suppress(AttributeError, OSError, NotImplementedError):
                os.fsync(out.fileno())
        self._files.mv(draft, f"{folder}/{name}")

    def _get(self, path: str, kind: type[T]) -> T:
        """Raises CorruptedError, TruncatedError where it is gone."""
        try:
            with self._files.open(f"{self._path}/{path}", "rb") as file:
                return unpack(file.read(), kind)
        except FileNotFoundError:
            raise TruncatedError(
                f"{path} is not there",
                where=self.root,
                hint="a query that runs truncates its logs behind snapshots: try again",
            ) from None
        except msgspec.MsgspecError as error:
            raise CorruptedError(
                f"{path} of the checkpoint is damaged: {error}", where=self.root, hint="restore the checkpoint from a backup"
            ) from error

    def _turns(self, folder: str) -> list[int]:
        # Listings are kept by some file systems; what others wrote is to be seen.
        self._files.invalidate_cache(f"{self._path}/{folder}")
        try:
            there = self._files.ls(f"{self._path}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = (str(one).rstrip("/").rsplit("/", 1)[-1] for one in there)
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    # -- Turns --------------------------------------------------------------------------------------------------------

    def heads(self) -> list[int]:
        return self._turns("heads")

    def head(self) -> Head | None:
        """The newest; None where nothing has begun. Raises CorruptedError, ConfigError where another version wrote it."""
        turns = self.heads()
        return self.head_of(turns[-1]) if turns else None

    def head_of(self, turn: int) -> Head:
        head = self._get(f"heads/{_name(turn)}", Head)
        if head.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"the checkpoint has format version {head.format_version}, this program writes {FORMAT_VERSION}",
                where=self.root,
                hint="run the version of streamseg that wrote it, or begin with another --checkpoint",
            )
        return head

    def put_part(self, partition: int, turn: int, part: Part) -> None:
        self._put(f"customers/{partition}/{_name(turn)}", part)

    def part(self, partition: int, turn: int) -> Part:
        return self._get(f"customers/{partition}/{_name(turn)}", Part)

    def part_or_none(self, partition: int, turn: int) -> Part | None:
        try:
            return self.part(partition, turn)
        except TruncatedError:
            return None

    def put_turn(self, head: Head, model: list[bytes]) -> None:
        """The turn counts from here on."""
        self._put(f"model/{_name(head.turn)}", model)
        self.put_head(head)

    def put_head(self, head: Head) -> None:
        self._put(f"heads/{_name(head.turn)}", head)

    def retain(self, head: Head, versions: Mapping[int, int]) -> None:
        """Delete what is in a kept snapshot, and needed by nobody.

        `versions`: of the model, by turn, of the heads that are there.
        """
        metadata = {p: OffsetMetadata.decode(text) for p, (_, text) in head.committed.items()}
        for p, there in metadata.items():
            if there.horizon:
                self._delete(f"customers/{p}", there.snapshots[0].offset // _EACH)
        wanted = {kept.model_version for there in metadata.values() for kept in there.snapshots}
        oldest = min(metadata[p].horizon if p in metadata else 0 for p in range(head.n_partitions))
        kept = set(sorted(versions)[-_LATEST:])
        for version in wanted:
            kept |= set(sorted(turn for turn, there in versions.items() if there <= version)[-1:])
        first = max((turn for turn in kept if versions[turn] <= oldest), default=0)
        for turn in versions.keys() - kept:
            self._remove(f"heads/{_name(turn)}")
        self._delete("model", first)

    def _delete(self, folder: str, below: int) -> None:
        for turn in self._turns(folder):
            if turn < below:
                self._remove(f"{folder}/{_name(turn)}")

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._path}/{path}")

    # -- Logs, as restore and `verify` read them ----------------------------------------------------------------------

    def read(self, log: Log, partition: int, start: int, wait_s: float = 0.0) -> Iterator[tuple[int, bytes]]:
        """Records from `start` on, of turns that count. What is there is there: `wait_s` is for stores that show it later.

        Raises TruncatedError where `start` is no longer retained, CorruptedError where a file in between is missing.
        """
        if log is Log.SPOOL:
            return
        last = self.heads()[-1:]
        turns = [turn for turn in self._turns(_folder(log, partition)) if turn <= (last[0] if last else -1)]
        if start and turns and turns[0] > start // _EACH and log is Log.MODEL:
            raise TruncatedError(
                f"the model log begins with turn {turns[0]}, turn {start // _EACH} is not retained any more",
                where=self.root, hint="a job that runs truncates its logs behind snapshots: read again from those",
            )  # fmt: skip
        if log is Log.MODEL and turns and turns[-1] - turns[0] + 1 != len(turns):
            raise CorruptedError(
                "a file of the model log is missing", where=f"{self.root}/segments/model", hint="restore it from a backup"
            )
        for turn in turns:
            if (turn + 1) * _EACH > start:
                for place, record in enumerate(self._records(log, partition, turn), self.offset(turn)):
                    if place >= start:
                        yield place, record

    def _records(self, log: Log, partition: int, turn: int) -> list[bytes]:
        if log is Log.MODEL_SNAPSHOTS:
            return self.head_of(turn).snapshot
        if log is Log.MODEL:
            return self._get(f"model/{_name(turn)}", list[bytes])
        return self.part(partition, turn).customers

    def end(self, log: Log, partition: int) -> int:
        turns = self._turns(_folder(log, partition))
        return self.offset(turns[-1] + 1) if turns else 0

    def committed(self) -> dict[int, Committed]:
        head = self.head()
        return {} if head is None else {p: Committed(*there) for p, there in head.committed.items()}


def _name(turn: int) -> str:
    return f"{turn:012}"


def _folder(log: Log, partition: int) -> str:
    return {Log.MODEL: "model", Log.MODEL_SNAPSHOTS: "heads"}.get(log, f"customers/{partition}")


def snapshot_in(head: Head) -> bytes:
    """The payload of its snapshot."""
    (entry,) = entries(enumerate(head.snapshot), "heads")
    return entry.payload

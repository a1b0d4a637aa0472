"""The entries of the internal logs.

Model log: a genesis (configuration, partitions), then starts and batches in one order for all workers. A batch holds the
manifest of what was read and the delta of what was learned; manifests tile the input. Customer log of a partition: deltas
and snapshots of its customers.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

import msgspec

from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.customers.seen import SeenChange, SeenIds
from streamseg.core.customers.table import Rows, TableChange
from streamseg.core.model.codec import pack, unpack
from streamseg.core.model.loss_monitor import LossWatch
from streamseg.core.model.records import Decision, Delta, Upserts
from streamseg.core.model.state import ModelState
from streamseg.errors import ConfigError
from streamseg.formats.frames import cut, frames
from streamseg.formats.wire import KnownSchema

# Raised where records, or what is decided at a version, are no longer what they were: `verify` takes both again.
FORMAT_VERSION = 13

T = TypeVar("T")


class PartitionManifest(msgspec.Struct):
    """What a batch did with one partition.

    Attributes:
        seq: of the commit, as in the partition's mark.
        first, next: input offsets [first, next); records: how many there were; checksum: of their keys and values.
        dead_letters, waiting, erased, warming_up, assigned: what became of them; with dropped, which `input.where` does not
            mean, and duplicates, which `input.deduplicate` recognized, `records` together.
        tags_first, tags: how many records the partition had published before, and in this batch.
        letters_first: dead letters that the partition had before.
        sweep: rows [first, end) that were re-tagged, at which epoch; None for no slice. ended: the input had ended.
        last_assigned_at: microseconds.
        newcomers: hashes of 1/16 of the new customers, so that one on two partitions is noticed.
    """

    partition: int
    seq: int
    first: int
    next: int
    records: int
    checksum: int
    dead_letters: int
    waiting: int
    erased: int
    warming_up: int
    assigned: int
    tags_first: int
    tags: int
    letters_first: int
    sweep: tuple[int, int, int] | None
    last_assigned_at: int
    newcomers: list[int] = []
    dropped: int = 0
    duplicates: int = 0
    ended: bool = False


class Manifest(msgspec.Struct):
    """What one batch read and wrote, and the one clock reading that it used (microseconds).

    Attributes:
        model_version, model_digest: the model that the tags were made with.
        input_id: of the topic that was read, as in the genesis.
    """

    format_version: int
    config_digest: bytes
    model_version: int
    model_digest: bytes
    clock_us: int
    partitions: list[PartitionManifest]
    input_id: bytes = b""


class Genesis(msgspec.Struct, tag="genesis"):
    """The first record of a model log: who writes here, with which settings, over how many partitions.

    Attributes:
        starts: the input offset that each partition begins at.
        input_id: of the input topic (16 bytes), so that another one of the same name is not read on in; empty where the
            transport has no ids.
        topic_ids: of the topics that are written, by name.
    """

    format_version: int
    config: str
    n_partitions: int
    starts: dict[int, int]
    input_id: bytes = b""
    topic_ids: dict[str, bytes] = {}


class BatchRecord(msgspec.Struct, tag="batch"):
    """`schemas`: those that the batch's values name and that did not stand in the log, from which it is derived again."""

    manifest: Manifest
    delta: Delta | Upserts
    schemas: list[KnownSchema] = []


class DecisionRecord(msgspec.Struct, tag="decision"):
    """What was decided between batches, and the clock reading of its catalog records."""

    decision: Decision
    clock_us: int


ModelRecord = Genesis | BatchRecord | DecisionRecord


class ModelSnapshot(msgspec.Struct):
    """The model at a version. Records of the model log below `next_offset` are in it, and no others.

    Attributes:
        positions: by partition, where its last manifest ended; homes: partitions of sampled customers, by hash.
        watch: of the loss; open: batches of the step that is not closed yet; schemas: of the input's values.
    """

    format_version: int
    version: int
    next_offset: int
    genesis: Genesis
    state: ModelState
    positions: dict[int, int]
    homes: dict[int, int]
    watch: LossWatch
    open: list[BatchRecord] = []
    schemas: list[KnownSchema] = []


class Sweep(msgspec.Struct, frozen=True):
    """A pass over stored customers: rows [cursor, end) are still to be seen for `epoch`, the sweep's number.

    Attributes:
        model_epoch, as_of: what customers are tagged with, and the time (microseconds) that silent ones are seen at; passes:
            of the model at the time.
        before, before_as_of: number and time of the sweep before; same: it was of the same model epoch.
        at: records accepted when its last slice was seen.
    """

    epoch: int = 0
    model_epoch: int = 0
    as_of: int = NO_TIME
    cursor: int = 0
    end: int = 0
    passes: int = 0
    before: int = -1
    before_as_of: int = NO_TIME
    same: bool = False
    at: int = -1

    @property
    def active(self) -> bool:
        return self.cursor < self.end


class Mark(msgspec.Struct, frozen=True):
    """Where a partition stands after a commit. Carried whole by every entry of its customer log.

    Attributes:
        seq: commits so far; next: next input offset; model_version: highest used; assigned_at: last given (microseconds).
        clock_us, last_us: event-time watermark, and the last event's time as it came.
        tags, letters: records published so far; accepted: input records so far that are no dead letters, and no duplicates.
        batches: since the last snapshot; erased: customers erased since then.
        closed_at: records accepted when the last step was closed.
        ids_since: event ids of earlier events are not remembered any more (microseconds).
    """

    seq: int = 0
    next: int = 0
    model_version: int = 0
    assigned_at: int = 0
    clock_us: int | None = None
    last_us: int = 0
    tags: int = 0
    letters: int = 0
    sweep: Sweep = Sweep()
    batches: int = 0
    erased: int = 0
    accepted: int = 0
    closed_at: int = 0
    ids_since: int = NO_TIME


class CustomerDelta(msgspec.Struct, tag="delta"):
    """What a batch did to the customers of a partition; [first, mark.next) is the input that it covers."""

    mark: Mark
    first: int
    change: TableChange
    seen: SeenChange | None = None


class SnapshotHead(msgspec.Struct, tag="head"):
    """Begins a snapshot of `n_customers` in a table of `n_rows`. `clock_us` is that of the commit's catalog records."""

    mark: Mark
    clock_us: int
    model_version: int
    n_rows: int
    n_customers: int


class SnapshotRows(msgspec.Struct, tag="rows"):
    """A piece of a snapshot: customers, or event ids that are remembered."""

    rows: Rows | None = None
    seen: SeenIds | None = None


CustomerEntry = CustomerDelta | SnapshotHead | SnapshotRows


class KeptCustomers(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot in the customer log: its offset, the model version it was taken at, the input offset it reaches to."""

    offset: int
    model_version: int
    next_input: int


class OffsetMetadata(msgspec.Struct, frozen=True):
    """What is committed with an input offset.

    Attributes:
        seq: of the mark.
        snapshots: the kept snapshots of the customer log, oldest first; with fewer than two, all of the log is kept.
    """

    seq: int = 0
    snapshots: tuple[KeptCustomers, ...] = ()

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> OffsetMetadata:
        return msgspec.json.decode(text, type=cls) if text else cls()

    @property
    def newest(self) -> int:
        """Model version of the newest snapshot."""
        return self.snapshots[-1].model_version if self.snapshots else 0

    @property
    def horizon(self) -> int:
        """Model version of the oldest state that `verify` can start from."""
        return self.snapshots[0].model_version if len(self.snapshots) > 1 else 0


def encode_entry(value: Any) -> list[bytes]:
    """Records of one entry."""
    return list(frames(cut(pack(value))))


def decode_model_record(payload: bytes) -> ModelRecord:
    """Raises ConfigError, as the others do, where another version of this program wrote it."""
    return _decoded(payload, ModelRecord)  # type: ignore[arg-type]


def decode_customer_entry(payload: bytes) -> CustomerEntry:
    return _decoded(payload, CustomerEntry)  # type: ignore[arg-type]


def decode_model_snapshot(payload: bytes) -> ModelSnapshot:
    return _decoded(payload, ModelSnapshot)


def _decoded(payload: bytes, kind: type[T]) -> T:
    try:
        return unpack(payload, kind)
    except msgspec.MsgspecError as error:
        # Its checksum was right, so these are the bytes that somebody wrote.
        raise ConfigError(
            f"the state holds a record that this program cannot read ({error})",
            hint="run the version of streamseg that wrote it, or start a new state",
        ) from error


def config_digest(config: str) -> bytes:
    return hashlib.blake2b(config.encode(), digest_size=16).digest()


def config_differences(old: str, new: str) -> list[str]:
    """Dotted keys in which two configurations differ, with the old values."""
    before, after = json.loads(old), json.loads(new)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"{key} ({json.dumps(before[key])} there)" if key in before else f"{key} (not there)" for key in changed]


def customer_hash(customer_id: str) -> int:
    """64 bits that stand for a customer where the id must not be kept."""
    return int.from_bytes(hashlib.blake2b(customer_id.encode(), digest_size=8).digest(), "little")

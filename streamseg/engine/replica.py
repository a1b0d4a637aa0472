"""A replica of the model: applies the model log in order, checks that manifests tile the input.

Every worker holds one. After the same number of records all of them hold the same model, byte for byte.
"""

from __future__ import annotations

from streamseg.core.model.codec import pack, unpack
from streamseg.core.model.loss_monitor import LossWatch
from streamseg.core.model.records import Asked, Refitted, Rescaled, Upserts
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.model.transitions import apply, apply_step
from streamseg.engine.log_records import (
    FORMAT_VERSION,
    BatchRecord,
    DecisionRecord,
    Genesis,
    Manifest,
    ModelRecord,
    ModelSnapshot,
    PartitionManifest,
    config_differences,
    config_digest,
)
from streamseg.engine.training_rows import joined_blocks
from streamseg.errors import ConfigError, CorruptedError, SettingsError, TruncatedError
from streamseg.formats.wire import KnownSchema

# Sampled customers whose partition is remembered, by smallest hash.
_HOMES = 4096
# Versions whose digests a replica remembers: a delta may have been computed from any of them.
_REMEMBERED = 4096


class Replica:
    """The model at a version, and where the log goes on."""

    def __init__(self, spec: ModelSpec, config: str) -> None:
        self.spec = spec
        self.config = config
        self.config_digest = config_digest(config)
        self.state = ModelState.empty(spec)
        self.genesis: Genesis | None = None
        self.next_offset = 0
        self.positions: dict[int, int] = {}
        self.homes: dict[int, int] = {}
        self.on_two_partitions = 0
        self.watch = LossWatch()
        # Batches of the open step: the model is that of the last one that was closed.
        self.open: list[BatchRecord] = []
        # Schemas that the log holds.
        self.schemas: dict[tuple[bytes, str], KnownSchema] = {}
        self._digests: dict[int, bytes] = {}
        self._remember()

    def _remember(self) -> None:
        """Keep what a snapshot of this version holds: a batch of an open step comes behind it, and is read again."""
        self._at_version = self.next_offset, dict(self.positions), list(self.open)
        self._digests[self.state.version] = self.state.digest()
        self._digests.pop(self.state.version - _REMEMBERED, None)

    @property
    def input_id(self) -> bytes:
        """Of the input topic; empty where there is none."""
        return b"" if self.genesis is None else self.genesis.input_id

    @property
    def digest(self) -> bytes:
        """Of the state at this version."""
        return self._digests[self.state.version]

    def apply(self, record: ModelRecord, end: int) -> None:
        """Apply one record, the log going on at `end`. A batch counts from when its step is closed, by it or a later one.

        Raises ConfigError where the log belongs to other settings, CorruptedError where it does not fit this replica,
        TruncatedError where it begins behind what this replica has.
        """
        if self.genesis is None and not isinstance(record, Genesis):
            raise TruncatedError(
                "the model log does not begin with its genesis",
                where=f"model log, before offset {end}",
                hint="a snapshot of the model should stand in its place: restore the topic or the state from a backup",
            )
        if isinstance(record, Genesis):
            self._check_genesis(record)
            self.state.version += 1
        elif isinstance(record, DecisionRecord):
            counted = apply(self.state, self.spec, record.decision)
            if counted and isinstance(record.decision, Asked | Refitted | Rescaled):
                self.watch.answer(record.decision.base_version)
        else:
            self._check_batch(record)
            self.schemas |= {schema.key: schema for schema in record.schemas if schema.kind != "missing"}
            self.open.append(record)
            if record.delta.closes:
                self._close_step()
        self.next_offset = end
        if self.state.version not in self._digests:
            self._remember()

    def _close_step(self) -> None:
        deltas, self.open = [record.delta for record in self.open], []
        apply_step(self.state, self.spec, deltas)
        losses = joined_blocks([delta.losses for delta in deltas if isinstance(delta, Upserts)])
        self.watch.feed(losses[0], losses[1], self.state.epoch, self.state.version)

    def _check_genesis(self, genesis: Genesis) -> None:
        if self.genesis is not None:
            return
        if genesis.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"the state has format version {genesis.format_version}, this program writes {FORMAT_VERSION}",
                hint="run the version of streamseg that wrote it, or start a new state",
            )
        if genesis.config != self.config:
            changed = ", ".join(config_differences(genesis.config, self.config))
            raise SettingsError(
                f"the state was written with other settings: {changed}",
                genesis.config,
                hint="give the settings that it was written with, in streamseg.toml or with --set; or begin anew from the "
                "same input: another --state, or on Kafka another application with outputs of its own",
            )
        self.genesis = genesis
        self.positions = dict(genesis.starts)

    def _check_batch(self, record: BatchRecord) -> None:
        manifest: Manifest = record.manifest
        if manifest.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"a worker writes format version {manifest.format_version} to this model log, this one {FORMAT_VERSION}",
                hint="run the same version of streamseg everywhere",
            )
        if manifest.config_digest != self.config_digest:
            raise ConfigError("a worker with other settings writes to this model log", hint="stop it")
        if manifest.input_id != self.input_id:
            raise ConfigError("a worker that reads another input topic writes to this model log", hint="stop it")
        known = self._digests.get(manifest.model_version)
        if known is not None and known != manifest.model_digest:
            raise CorruptedError(
                f"the model of version {manifest.model_version} differs between the worker that wrote a batch and this one",
                where=f"version {self.state.version + 1} of the model log",
                hint="run `streamseg verify`; start a new state if the log is damaged",
            )
        for part in manifest.partitions:
            before = self.positions.get(part.partition)
            if before is not None and part.first != before:
                kind = "skips" if part.first > before else "repeats"
                raise CorruptedError(
                    f"a manifest {kind} input: it begins at {part.first}, the one before ended at {before}",
                    where=f"partition {part.partition}, version {self.state.version + 1} of the model log",
                    hint="run `streamseg verify`; restore the state from a backup",
                )
            self.positions[part.partition] = part.next
            self._note_homes(part)

    def _note_homes(self, part: PartitionManifest) -> None:
        """Remember where sampled customers are, the smallest hashes: the same ones on every worker."""
        for key in part.newcomers:
            self.on_two_partitions += self.homes.setdefault(key, part.partition) != part.partition
        if len(self.homes) > _HOMES:
            self.homes = {key: self.homes[key] for key in sorted(self.homes)[:_HOMES]}

    def snapshot(self) -> ModelSnapshot:
        assert self.genesis is not None
        next_offset, positions, unclosed = self._at_version
        return ModelSnapshot(
            FORMAT_VERSION,
            self.state.version,
            next_offset,
            self.genesis,
            self.copy_of_state(),
            dict(positions),
            dict(self.homes),
            unpack(pack(self.watch), LossWatch),
            list(unclosed),
            list(self.schemas.values()),
        )

    def copy_of_state(self) -> ModelState:
        return unpack(pack(self.state), ModelState)

    def restore(self, snapshot: ModelSnapshot) -> None:
        """Take a snapshot's place. Raises ConfigError as `apply` does, CorruptedError where it is not of these settings."""
        self._check_genesis(snapshot.genesis)
        if (snapshot.state.external is None) != (self.spec.make is None):
            raise CorruptedError(
                "the model's snapshot holds a model of model.factory, and the settings name none, or the other way round",
                where=f"version {snapshot.version} of the model log",
                hint="somebody else wrote it: see who may write to the model's topics, and begin a new state",
            )
        self.state = snapshot.state
        self.next_offset = snapshot.next_offset
        self.positions = dict(snapshot.positions)
        self.homes = dict(snapshot.homes)
        self.watch = snapshot.watch
        self.open = list(snapshot.open)
        self.schemas = {schema.key: schema for schema in snapshot.schemas}
        self._digests = {}
        self._remember()

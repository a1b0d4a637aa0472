"""Prove from the logs that every tag follows from the input.

Starts from the oldest state that is kept, takes the manifests in log order, runs each batch again on the input that it
names, and compares everything with what stands there: tags, dead letters, catalog, customer deltas and snapshots, model
deltas, byte by byte. Memory holds one state, whatever the length of the logs.
"""

from __future__ import annotations

from collections.abc import Callable

from streamseg.core.model.codec import pack, unpack
from streamseg.core.model.initialization import start_from_warm_up
from streamseg.core.model.policy import decided, due, names_at_end
from streamseg.core.model.records import Appeared, Asked, Decision, Described, Postponed, Refitted, Renamed, Rescaled, Start
from streamseg.core.model.state import ModelState
from streamseg.engine.catalog import catalog_of
from streamseg.engine.clock import Clock
from streamseg.engine.job import Job
from streamseg.engine.log_records import (
    BatchRecord,
    DecisionRecord,
    ModelSnapshot,
    decode_model_record,
)
from streamseg.engine.partition import PartitionResult
from streamseg.engine.ports import LogReader, Published, Topic
from streamseg.engine.restore import model_entries, restore_model, retried
from streamseg.engine.settings import JobSettings
from streamseg.engine.verify_partition import ANOTHER_WRITER, Lane, Report, short
from streamseg.errors import CorruptedError, DifferenceError
from streamseg.formats.frames import Entry
from streamseg.formats.outputs import decode_segment

# Models that a customers' snapshot may have been taken at, counted back from where it is met. What batches were computed
# from is looked up beforehand, however far back.
_HISTORY = 64


class Verifier:
    """One run of `verify`."""

    def __init__(self, reader: LogReader, settings: JobSettings, clock: Clock, progress: Callable[[Report], None]) -> None:
        self.reader, self.settings, self.progress = reader, settings, progress
        self.clock = clock
        self.job = Job(settings, clock, reader.n_partitions)
        self.history: dict[int, bytes] = {}
        # By model version: the last version of the log that holds a batch which was computed from it.
        self._needed: dict[int, int] = {}
        self.report = Report()
        self.lanes: dict[int, Lane] = {}
        self.catalog: list[tuple[bytes, bytes]] = []

    def run(self) -> Report:
        """Raises DifferenceError at the first difference, CorruptedError where a log is damaged."""
        announced = self._catalog()
        committed = self.reader.committed()
        self.reader.settle()
        for partition in range(self.reader.n_partitions):
            self.lanes[partition] = Lane(self, partition, committed.get(partition))
        oldest = min(lane.from_version for lane in self.lanes.values())
        restore_model(self.reader, self.job, oldest)
        self.report.model_version = oldest
        self.job.tasks = {p: lane.task for p, lane in self.lanes.items()}
        self._needed = self._versions_needed()
        self._begin()
        self._pass_snapshots()
        for entry in model_entries(self.reader, self.job.replica.next_offset):
            self._entry(entry)
        still = self.reader.committed()
        self.reader.settle()
        for partition, lane in self.lanes.items():
            lane.finish(committed.get(partition), quiet=still.get(partition) == committed.get(partition))
        self._compare_catalog(announced)
        return self.report

    def _versions_needed(self) -> dict[int, int]:
        """Where the log goes on behind the last record that was computed from each version."""
        needed: dict[int, int] = {}
        for entry in model_entries(self.reader, self.job.replica.next_offset):
            record = decode_model_record(entry.payload)
            if isinstance(record, BatchRecord):
                needed[record.manifest.model_version] = entry.end
            elif isinstance(record, DecisionRecord):
                needed[record.decision.base_version] = entry.end
        return needed

    def _entry(self, entry: Entry) -> None:
        record, begun = decode_model_record(entry.payload), self.job.replica.genesis is not None
        # What does not begin with a genesis was truncated since we looked: that is said when it is applied.
        if begun and isinstance(record, BatchRecord):
            self._batch(record, entry)
        if begun and isinstance(record, DecisionRecord):
            self._decision(record)
        self.job.apply_model_entry(entry)
        # Workers that start at once may each begin the log: the first one did.
        if not begun:
            self._begin()
        self._remember()
        self._pass_snapshots()

    def _decision(self, record: DecisionRecord) -> None:
        """Compare what was decided with what was due, and note what that adds to the catalog."""
        decision, spec = record.decision, self.settings.model
        self.report.decisions += 1
        if isinstance(decision, Start):
            # First centers stand on nothing but themselves.
            self.catalog += catalog_of(ModelState.empty(spec), spec, decision, record.clock_us)
            return
        base = self.at(decision.base_version)
        if base is None:
            if decision.base_version >= self.report.model_version:
                raise self._unknown_version(decision.base_version)
            # It was computed before the horizon, and came to stand behind it.
            return
        state = base.replica.copy_of_state()
        if not isinstance(decision, Renamed):
            self._compare_decision(base, decision)
        self.catalog += catalog_of(state, spec, decision, record.clock_us)

    def _compare_decision(self, base: Job, decision: Decision) -> None:
        """Centers that a search found are data; whether it was due, and who won, follows from the log."""
        state, spec = base.state, self.settings.model
        if isinstance(decision, Refitted | Rescaled):
            right = due(state, spec) == "search"
        elif isinstance(decision, Postponed):
            right = not state.ready and start_from_warm_up(state, spec) is None
        elif isinstance(decision, Asked):
            right = base.asks
        elif isinstance(decision, Described):
            right = decision in (decided(state, spec, decision.base_digest), names_at_end(state, spec, decision.base_digest))
        else:
            right = isinstance(decision, Appeared) and decided(state, spec, decision.base_digest) == decision
        if not right:
            raise DifferenceError(
                f"the model was {type(decision).__name__.lower()}, which does not follow from what was learned",
                where=f"version {self.job.state.version + 1} of the model log",
            )

    def _begin(self) -> None:
        """Lanes without a snapshot begin where the genesis says."""
        genesis = self.job.replica.genesis
        for partition, lane in self.lanes.items():
            lane.task.begin(genesis.starts.get(partition, 0) if genesis is not None else 0)
            self.report.horizon[partition] = lane.task.mark.next
        self._remember()

    def _remember(self) -> None:
        version = self.job.state.version
        if self.job.replica.genesis is not None:
            self.history[version] = pack(self.job.replica.snapshot())
        read = self.job.replica.next_offset
        kept = {old for old in self.history if old > version - _HISTORY or self._needed.get(old, 0) > read}
        for old in self.history.keys() - kept:
            del self.history[old]

    def at(self, version: int) -> Job | None:
        """The job as it was at a version: workers compute from the model that they have. None where that is not at hand."""
        if version == self.job.state.version:
            return self.job
        if version not in self.history:
            return None
        job = Job(self.settings, self.clock, self.reader.n_partitions)
        job.replica.restore(unpack(self.history[version], ModelSnapshot))
        job.tasks = self.job.tasks
        return job

    def _unknown_version(self, version: int) -> CorruptedError:
        return CorruptedError(
            f"a record names model version {version}, which the log does not have",
            where=f"version {self.job.state.version + 1} of the model log",
            hint="restore the state from a backup",
        )

    def _pass_snapshots(self) -> None:
        """Snapshots stand between batches: compare those that were taken at this version."""
        for lane in self.lanes.values():
            lane.pass_snapshots()

    def _batch(self, record: BatchRecord, entry: Entry) -> None:
        manifest = record.manifest
        results: dict[int, PartitionResult] = {}
        within = [part for part in manifest.partitions if self.lanes[part.partition].covers(part.seq)]
        job = self.at(manifest.model_version) if within else self.job
        if job is None:
            raise self._unknown_version(manifest.model_version)
        job.schemas.learn([*self.job.replica.schemas.values(), *record.schemas])
        for part in within:
            result = self.lanes[part.partition].rederive(job, part, manifest.clock_us)
            if result is not None:
                results[part.partition] = result
        if len(results) == len(manifest.partitions):
            again = pack(job.batch_record(results, manifest.clock_us, closes=record.delta.closes, schemas=record.schemas))
            if again != entry.payload:
                raise DifferenceError(
                    "the model delta is not what its batch gives",
                    where=f"version {self.job.state.version + 1} of the model log, offset {entry.first}",
                )
            self.report.batches += 1
        for part in within:
            self.lanes[part.partition].follow(results.get(part.partition))
        self.progress(self.report)

    def _catalog(self) -> Published | None:
        """Read whole, as it is now: it is small, and a job that runs adds to it."""
        published = self.reader.published(Topic.CATALOG, 0, 0)
        return published and Published(published.first, iter(list(published.values)))

    def _compare_catalog(self, announced: Published | None) -> None:
        """`announced`: before the logs were read, so that they explain all of it. What they explain is there afterwards."""
        published = self._catalog()
        if published is None or announced is None:
            self.report.unread.append("the catalog topic cannot be read")
            return
        expected = {value for _, value in self.catalog}
        missing = expected.difference(published.values)
        if missing and published.first == 0:
            raise DifferenceError(
                "a catalog record is missing, or not what the model says", where=short(min(missing)), hint=ANOTHER_WRITER
            )
        begun = max(lane.from_version for lane in self.lanes.values())
        for value in announced.values:
            if value is not None and value not in expected and decode_segment(value).model_version > begun:
                raise DifferenceError(
                    "there is a catalog record that no model gives", where=short(value), hint=ANOTHER_WRITER
                )

    @property
    def total(self) -> int:
        """Records between the horizon and what was committed at the beginning, as offsets."""
        return sum(max(0, lane.end - self.report.horizon.get(p, 0)) for p, lane in self.lanes.items())


def verified(
    reader: LogReader, settings: JobSettings, clock: Clock, progress: Callable[[int, int], None] = lambda done, total: None
) -> Report:
    """Verify, beginning again where a job that runs has truncated what was to be read next. Raises as `Verifier.run`.

    `progress` is told records done, and how many there are to do.
    """

    def run() -> Report:
        verifier = Verifier(reader, settings, clock, lambda report: progress(report.records, verifier.total))
        return verifier.run()

    return retried(run)

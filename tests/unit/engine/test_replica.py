"""A replica holds manifests to tiling the input."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from streamseg.core.model.loss_monitor import LossWatch, _Known
from streamseg.core.model.records import Refitted
from streamseg.engine.events import Waiting
from streamseg.engine.log_records import (
    BatchRecord,
    DecisionRecord,
    Genesis,
    decode_customer_entry,
    decode_model_record,
    decode_model_snapshot,
)
from streamseg.engine.replica import Replica
from streamseg.engine.restore import model_entries
from streamseg.errors import ConfigError, CorruptedError
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import Recorder, loop, restored, run_memory, settings_for, shoppers

JOB = settings_for(model={"segments": 3, "warm_up": 20})


def batches() -> tuple[Replica, list[BatchRecord]]:
    """A replica after the genesis, and the batches that follow."""
    store, _ = run_memory(shoppers(120), JOB, batch_records=40)
    genesis, *rest = [decode_model_record(entry.payload) for entry in model_entries(store, 0)]
    replica = Replica(JOB.model, JOB.config)
    replica.apply(genesis, 1)
    return replica, [record for record in rest if isinstance(record, BatchRecord)]


@pytest.mark.parametrize(("shift", "what"), [(1, "skips"), (-1, "repeats")])
def test_a_manifest_that_does_not_go_on_where_the_one_before_ended_stops_the_worker(shift: int, what: str) -> None:
    replica, (first, *_) = batches()
    replica.apply(first, 2)
    (part,) = first.manifest.partitions
    moved = msgspec.structs.replace(part, first=part.next + shift, next=part.next + 40)
    manifest = msgspec.structs.replace(first.manifest, partitions=[moved], model_version=99)
    with pytest.raises(
        CorruptedError, match=f"a manifest {what} input: it begins at {40 + shift}, the one before ended at 40"
    ):
        replica.apply(BatchRecord(manifest, first.delta), 3)


def test_a_worker_whose_model_differs_stops() -> None:
    replica, (first, *_) = batches()
    manifest = msgspec.structs.replace(first.manifest, model_digest=b"\0" * 16)
    with pytest.raises(CorruptedError, match="the model of version 1 differs"):
        replica.apply(BatchRecord(manifest, first.delta), 2)


def test_a_worker_with_other_settings_stops_the_others() -> None:
    replica, (first, *_) = batches()
    manifest = msgspec.structs.replace(first.manifest, config_digest=b"\0" * 16)
    with pytest.raises(ConfigError, match="other settings"):
        replica.apply(BatchRecord(manifest, first.delta), 2)


def test_a_worker_of_another_format_is_refused_at_its_first_record() -> None:
    replica, (first, *_) = batches()
    manifest = msgspec.structs.replace(first.manifest, format_version=99)
    with pytest.raises(ConfigError, match="a worker writes format version 99"):
        replica.apply(BatchRecord(manifest, first.delta), 2)


def test_a_log_of_another_format_is_refused_before_anything_is_written() -> None:
    genesis = Genesis(99, JOB.config, 1, {0: 0})
    with pytest.raises(ConfigError, match="the state has format version 99"):
        Replica(JOB.model, JOB.config).apply(genesis, 1)


@pytest.mark.parametrize("decode", [decode_model_record, decode_model_snapshot, decode_customer_entry])
def test_a_record_of_another_layout_is_an_error_that_says_what_to_do(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(ConfigError, match="a record that this program cannot read") as error:
        decode(msgspec.msgpack.encode({"type": "of tomorrow"}))
    assert "version of streamseg" in str(error.value.hint)


def test_a_customer_that_comes_on_two_partitions_is_noticed_counted_and_told_what_to_do() -> None:
    store = EmbeddedTransport(":memory:", n_partitions=2)
    for partition in range(2):
        store.produce(partition, shoppers(400, 100, partition))
    recorder = Recorder()
    loop(store, JOB, recorder).run()
    told = [event for event in recorder.of(Waiting) if event.event == "customer_on_two_partitions"]
    assert told
    assert 0 < told[-1].details["sampled"] <= 100
    assert "streamseg repartition" in str(told[-1].details["hint"])


def test_customers_that_stay_on_their_partition_raise_no_alarm() -> None:
    _, recorder = run_memory(shoppers(800, 200), JOB, n_partitions=2)
    assert not recorder.of(Waiting)


def test_only_the_first_start_counts_and_the_others_count_for_the_version() -> None:
    store, _ = run_memory(shoppers(120), JOB, batch_records=40)
    records = [(entry.end, decode_model_record(entry.payload)) for entry in model_entries(store, 0)]
    replica = Replica(JOB.model, JOB.config)
    for end, record in records:
        replica.apply(record, end)
    before = replica.copy_of_state()
    start = next(record for _, record in records if isinstance(record, DecisionRecord))
    replica.apply(start, 99)
    after = replica.copy_of_state()
    assert after.version == before.version + 1
    after.version = before.version
    assert after.digest() == before.digest()


@pytest.mark.parametrize(("number", "answers"), [(0, True), (7, False)])
def test_a_search_that_does_not_count_leaves_the_rise_of_the_loss_unanswered(number: int, answers: bool) -> None:
    store, _ = run_memory(shoppers(120), JOB, batch_records=40)
    replica = restored(store, JOB).replica
    replica.watch = LossWatch(_Known(detections=1, last_version=1))
    decision = Refitted(replica.state.version, replica.digest, number)
    replica.apply(DecisionRecord(decision, 0), replica.next_offset + 1)
    assert replica.watch.unanswered is not answers

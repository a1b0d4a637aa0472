"""Metrics of real runs, held against what the runs published."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamseg.engine.events import (
    BatchCommitted,
    ModelChanged,
    Observers,
    PartitionsMoved,
    Polling,
    Restoring,
    SegmentSummary,
    Started,
    Stopped,
    Suspended,
)
from streamseg.engine.ports import CommitPlan, CommitResult, Outcome
from streamseg.observability.histogram import BulkHistogram
from streamseg.observability.metrics import Metrics
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import BAD, Recorder, event, loop, produce, settings_for, shoppers, tags

# They share what is started once for them.
pytestmark = pytest.mark.xdist_group("metrics")
DOCS = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")
MODEL = {"segments": 3, "warm_up": 20}


def samples(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """By name, values by labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of(found: dict[str, Any], name: str, **labels: str) -> float:
    return float(found[f"streamseg_{name}"][tuple(sorted(labels.items()))])


@pytest.fixture(name="run", scope="module")
def _run() -> tuple[EmbeddedTransport, Metrics]:
    store = EmbeddedTransport(":memory:")
    settings = settings_for(model=MODEL)
    events = [*shoppers(1500, customers=300), *BAD, event("c1", 1e5, erase=True), event("waits", 1e5, age=1.0)]
    produce(store, [(key, value, 1_700_000_000_000) for key, value, _ in events])
    metrics = Metrics("customer-events", settings.model.names)
    job = loop(store, settings, Recorder(), 200)
    job.observer = Observers(job.observer, metrics)
    job.run()
    return store, metrics


def test_counters_are_what_was_published(run: tuple[EmbeddedTransport, Metrics]) -> None:
    store, metrics = run
    found, published = samples(metrics), tags(store)
    told = [tag for tag in published if tag is not None]
    assert of(found, "events_total", outcome="dead_letter") == len(BAD)
    assert of(found, "events_total", outcome="erased") == published.count(None) == 1
    assert of(found, "events_total", outcome="waiting") == 1
    warming = sum(tag["reason"] == "warming_up" for tag in told)
    assert of(found, "events_total", outcome="warming_up") == warming > 0
    assert of(found, "events_total", outcome="assigned") == sum(tag["source"] is not None for tag in told) - warming
    each = Counter((str(tag["segment_id"]), tag["change"], tag["reason"]) for tag in told if tag["change"])
    for (segment, change, reason), n in each.items():
        assert of(found, "assignments_total", segment=segment, change=change, reason=reason) == n
    moves = Counter((tag["previous_segment_id"], tag["segment_id"]) for tag in told if tag["change"] == "moved")
    for (before, after), n in moves.items():
        assert of(found, "transitions_total", **{"from": str(before), "to": str(after)}) == n
    letters = {code: n for ((_, code),), n in found["streamseg_dead_letters_total"].items() if n}
    assert sum(letters.values()) == len(BAD)


def test_gauges_tell_customers_segments_model_and_drift(run: tuple[EmbeddedTransport, Metrics]) -> None:
    found = samples(run[1])
    customers = len({tag["customer_id"] for tag in tags(run[0]) if tag is not None}) - 1
    assert sum(found["streamseg_customers"].values()) == customers, "one was erased"
    assert len(found["streamseg_segment_info"]) == 3
    assert len(found["streamseg_segment_z"]) == len(found["streamseg_segment_center"]) == 9
    assert 0.5 < of(found, "silhouette") < 1.0
    assert 0.0 < of(found, "inertia") < 1.0
    assert of(found, "drift_window_customers") == customers
    assert of(found, "feature_drift", feature="age", measure="psi") < 0.1
    assert of(found, "model_version") > 5
    assert of(found, "task_state", partition="0", state="running") == 1
    assert of(found, "restore_remaining_records", partition="0") == 0
    assert of(found, "end_to_end_latency_seconds_count") == 1500 + len(BAD) + 2


def test_every_metric_is_told_and_every_told_metric_exists(run: tuple[EmbeddedTransport, Metrics]) -> None:
    exported = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type): family.documentation
        for family in text_string_to_metric_families(generate_latest(run[1].registry).decode())
    }
    rows = re.findall(r"^\| `(streamseg_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", DOCS, re.MULTILINE)
    told = {(name, kind): text for name, kind, _, text in rows if name != "streamseg_worker_up"}
    assert told == exported
    for name, kind, labels, _ in rows:
        wanted = {label.strip() for label in labels.split(",") if label.strip()}
        base = name if kind != "histogram" else f"{name}_count"
        for key in samples(run[1]).get(base, {}):
            assert {label for label, _ in key} == wanted, name


def test_before_anything_happens_every_counter_is_there() -> None:
    found = samples(Metrics("t", ["age"]))
    for name in ("events_total", "dead_letters_total", "transaction_aborts_total", "drift_detections_total", "fenced_total"):
        assert all(value == 0.0 for value in found[f"streamseg_{name}"].values())
        assert found[f"streamseg_{name}"]
    assert len(found["streamseg_feature_drift"]) == 2


def test_quality_is_not_told_before_it_is_known() -> None:
    found = samples(Metrics("t", ["age"]))
    for name in ("silhouette", "inertia", "outlier_ratio"):
        assert np.isnan(of(found, name)), "a restart on a quiet topic has no bad segments"


def test_an_aborted_batch_counts_nothing_but_the_abort() -> None:
    store, settings = EmbeddedTransport(":memory:"), settings_for(model=MODEL)
    produce(store, shoppers(600))
    metrics = Metrics("t", settings.model.names)
    job = loop(store, settings, Recorder(), 200)
    job.observer = metrics
    commit, passed = store.commit, [0]

    def failing_once(plan: CommitPlan) -> CommitResult:
        passed[0] += 1
        return CommitResult(Outcome.ABORTED) if passed[0] == 3 else commit(plan)

    store.commit = failing_once  # type: ignore[method-assign]
    job.run()
    found = samples(metrics)
    assert of(found, "transaction_aborts_total", cause="aborted") == 1
    assert sum(found["streamseg_events_total"].values()) == 600


def test_series_are_bounded_and_those_of_gone_segments_and_partitions_go() -> None:
    metrics = Metrics("t", ["age"])
    metrics.observe(Polling(1, (0, 1), {0: 5, 1: 0}, {}))
    metrics.observe(PartitionsMoved((0, 1), (), 10, 0.1))
    assert of(samples(metrics), "consumer_lag_records", topic="t", partition="0") == 5
    metrics.observe(PartitionsMoved((), (1,), 5, 0.1))
    for name in ("consumer_lag_records", "consumer_lag_seconds", "task_state", "restore_remaining_records"):
        assert all(("partition", "1") not in key for key in samples(metrics)[f"streamseg_{name}"])
    metrics.observe(Started("shop", {0: 4, 2: 4}, 1, 5, 0.1))
    metrics.observe(Started("shop", {0: 4}, 1, 5, 0.1))
    assert all(("partition", "2") not in key for key in samples(metrics)["streamseg_task_state"]), "it was lost meanwhile"
    metrics.observe(Suspended())
    assert of(samples(metrics), "task_state", partition="0", state="suspended") == 1
    metrics.observe(Stopped("FencedError", {}))
    assert of(samples(metrics), "fenced_total") == 1


def test_series_of_segments_that_are_no_more_go() -> None:
    metrics = Metrics("t", ["age"])
    for version in range(100):
        # Each refit has new segments.
        found = tuple(SegmentSummary(3 * version + i, f"s{version}-{i}", 1, 0.3, 0.0) for i in range(3))
        metrics.observe(ModelChanged("segments_changed", version, found))
        counts = {(one.id, "moved", "event"): 1 for one in found}
        moves = {(found[0].id, found[1].id): 1}
        metrics.observe(dataclasses.replace(_committed(1.0), assignments=counts, transitions=moves, segments=found))
    told = samples(metrics)
    assert len(told["streamseg_assignments_total"]) == 3 * 9
    assert len(told["streamseg_transitions_total"]) == 3 * 2
    assert len(told["streamseg_customers"]) == len(told["streamseg_segment_info"]) == 3


def _committed(made_ms: float) -> BatchCommitted:
    empty: dict[Any, int] = {}
    return BatchCommitted(
        empty, empty, empty, empty, (), {0: 1}, 1, 1, None, 0, 0, produced_ms={0: np.array([1.0, made_ms])}
    )


def test_a_bulk_histogram_counts_like_the_client_s_own() -> None:
    from prometheus_client import CollectorRegistry, Histogram

    values = np.random.default_rng(0).exponential(1.0, 1000)
    buckets = (0.1, 0.5, 1.0, 2.0)
    ours, registry = BulkHistogram("h", "text", buckets), CollectorRegistry()
    theirs = Histogram("h", "text", buckets=buckets, registry=CollectorRegistry())
    ours.observe(values[:300])
    ours.observe(values[300:])
    for value in values.tolist():
        theirs.observe(value)
    registry.register(ours)
    counted = {s.name + str(s.labels): s.value for family in ours.collect() for s in family.samples}
    expected = {s.name + str(s.labels): s.value for family in theirs.collect() for s in family.samples}
    assert counted == pytest.approx({name: value for name, value in expected.items() if "created" not in name})


def test_a_partition_that_was_lost_while_it_was_restored_leaves_no_series() -> None:
    metrics = Metrics("events")
    metrics.observe(Restoring(3, 10))
    assert 'partition="3"' in generate_latest(metrics.registry).decode()
    metrics.observe(Started("shop", {0: 12}, 4, 60, 0.1))
    page = generate_latest(metrics.registry).decode()
    assert 'partition="0"' in page
    assert 'partition="3"' not in page

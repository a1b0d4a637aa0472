"""Drift: chance is told from change, at any sample size."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, wasserstein_distance

from streamseg.core.customers.table import customer_key
from streamseg.core.model.drift import FeatureDrift, Measure, Yardstick, psi
from streamseg.core.model.initialization import start_from_centers
from streamseg.core.model.loss_monitor import LossWatch
from streamseg.core.model.records import Asked
from streamseg.core.model.reference import Reference
from streamseg.core.model.spec import ModelFeature, ModelSpec
from streamseg.engine.events import Detected, DriftEnded, DriftMeasured
from streamseg.engine.log_records import DecisionRecord, customer_hash, decode_model_record, encode_entry
from streamseg.engine.ports import CommitPlan, Log
from streamseg.engine.restore import model_entries
from streamseg.errors import DifferenceError
from streamseg.runtime.batch_report import DriftReports
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import (
    Event,
    FixedClock,
    Recorder,
    event,
    loop,
    produce,
    restored,
    run_memory,
    settings_for,
    shoppers,
    tags,
    verified,
)

SPEC = ModelSpec((ModelFeature("x"),))
MODEL = {"segments": 3, "warm_up": 200}


def measured(before: np.ndarray, after: np.ndarray):  # type: ignore[no-untyped-def]
    found = Yardstick(Reference(list(range(len(before))), before[None]), SPEC)._features[0].measured(after)
    assert found is not None
    return found


def test_drift_is_told_where_one_measure_is_beyond_chance_and_large_as_in_the_alert() -> None:
    chance, small, told = Measure(0.3, 0.4), Measure(0.09, 0.05), Measure(0.3, 0.05)
    assert not FeatureDrift(chance, small).drifted, "the one is large, the other is no chance"
    assert not FeatureDrift(small, chance).drifted
    assert FeatureDrift(told, small).drifted
    assert FeatureDrift(chance, told).drifted


@pytest.mark.parametrize("n", [100, 1_000, 10_000])
def test_chance_alone_is_rarely_told(n: int) -> None:
    rng = np.random.default_rng(n)
    alarms = np.zeros(2)
    for _ in range(300):
        found = measured(np.exp(rng.normal(size=1_000)), np.exp(rng.normal(size=n)))
        alarms += found.psi.significant, found.distance.significant
    assert (alarms / 300 <= 0.03).all(), "one in a hundred is expected"


def test_a_rise_of_the_median_by_two_fifths_is_told_where_the_index_alone_is_silent() -> None:
    rng = np.random.default_rng(0)
    found = measured(
        np.log1p(50 * np.exp(1.2 * rng.normal(size=5_000))), np.log1p(70 * np.exp(1.2 * rng.normal(size=5_000)))
    )
    assert found.psi.value < 0.1
    assert found.drifted


def test_a_difference_that_is_real_but_small_is_not_told() -> None:
    rng = np.random.default_rng(0)
    found = measured(rng.normal(size=20_000), rng.normal(0.1, size=20_000))
    assert found.psi.significant
    assert found.distance.significant
    assert not found.drifted


def test_measures_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=5_000), rng.normal(0.5, 1.5, size=5_000)
    found = measured(before, after)
    assert found.distance.value * before.std() == pytest.approx(wasserstein_distance(before, after), rel=0.02)
    counts = psi(np.array([100, 300]), np.array([200, 200]))
    assert counts.value == pytest.approx(0.25 * np.log(0.5 / 0.25) - 0.25 * np.log(0.5 / 0.75), rel=0.02)
    assert counts.critical == pytest.approx((1 / 400 + 1 / 400) * chi2.ppf(0.99, 1))


@pytest.mark.parametrize("values", [np.zeros(500), np.repeat([0.0, 1.0], 250)])
def test_features_of_few_levels_do_not_drift_by_themselves(values: np.ndarray) -> None:
    assert not measured(values, values[::-1].copy()).drifted


def test_too_few_customers_say_nothing() -> None:
    values = np.arange(1_000.0)
    yardstick = Yardstick(Reference(list(range(1_000)), values[None]), SPEC)
    assert yardstick._features[0].measured(values[:99]) is None


def test_the_reference_are_the_customers_of_the_warm_up_whatever_comes_later() -> None:
    settings = settings_for(model=MODEL)
    store, recorder = run_memory(shoppers(3_000, customers=600), settings, batch_records=200)
    job = restored(store, settings)
    assert job.state.reference is not None
    assert 200 <= job.state.reference.n_rows < 400
    drift = job.drift()
    assert drift is not None
    assert drift.n == 600 - (600 - job.n_customers)
    assert not drift.drifted
    assert not drift.shares_drifted
    assert not recorder.of(Detected)
    assert verified(store, settings).batches > 0


def test_after_a_warm_start_the_reference_are_the_first_customers() -> None:
    settings = settings_for(model=MODEL)
    start = start_from_centers(
        settings.model, {i: {"age": 20.0 + 15 * i, "income": 1e3 * i, "purchases": i + 0.5} for i in range(3)}
    )
    store, _ = run_memory(shoppers(2_000, customers=600), settings, batch_records=150, warm_start=start)
    state = restored(store, settings).state
    assert state.reference is not None
    assert 200 <= state.reference.n_rows <= 350
    assert not state.warm_up.rows
    assert verified(store, settings).batches > 0


def test_an_erased_customer_leaves_the_reference() -> None:
    settings = settings_for(model=MODEL)
    events = shoppers(1_000, customers=300)
    store, _ = run_memory(events, settings, batch_records=200)
    before = restored(store, settings).state.reference
    assert before is not None
    gone = next(tag["customer_id"] for tag in tags(store) if tag is not None)
    assert customer_hash(gone) in before.keys
    run_memory([event(gone, 1e6, erase=True)], settings, transport=store)
    after = restored(store, settings).state.reference
    assert after is not None
    assert customer_hash(gone) not in after.keys
    assert after.n_rows == before.n_rows - 1


def test_drift_is_told_once_when_it_begins_and_names_the_feature() -> None:
    settings = settings_for(model={**MODEL, "refits": False})
    store, recorder = EmbeddedTransport(":memory:"), Recorder()
    later = [event(f"n{i}", 1e6 + i, age=20.0 + 15 * (i % 3), income=9e3 + i, purchases=1.0 + i % 3) for i in range(2_000)]
    produce(store, [*shoppers(1_000, customers=600), *later])
    job = loop(store, settings, recorder, 200, None, FixedClock())
    job._drift = DriftReports(0.0)
    job.run()
    told = [found.details["feature"] for found in recorder.of(Detected) if found.detector == "feature"]
    assert told.count("income") == 1
    last = recorder.of(DriftMeasured)[-1].drift
    assert "income" in last.drifted
    assert last.n == 2_000


def test_a_table_may_be_the_reference() -> None:
    settings = settings_for(model=MODEL)
    store, _ = run_memory(shoppers(1_000, customers=600), settings, batch_records=200)
    rng = np.random.default_rng(0)
    other = Reference(list(range(500)), np.array([rng.normal(90, 1, 500), rng.normal(size=500), rng.normal(size=500)]))
    drift = restored(store, dataclasses.replace(settings, reference=other)).drift()
    assert drift is not None
    assert (drift.m, "age" in drift.drifted) == (500, True)


def test_the_loss_is_watched_in_log_order_and_begins_anew_with_each_epoch() -> None:
    rng = np.random.default_rng(0)
    watch, ones = LossWatch(), np.full(200, 125.0)
    assert not watch.feed(ones, 125 * rng.gamma(50.0, 0.02, 200), 0, 1)
    again = LossWatch.from_bytes(watch.to_bytes())
    for one in (watch, again):
        rng = np.random.default_rng(1)
        assert one.feed(ones, 125 * 2 * rng.gamma(50.0, 0.02, 200), 0, 2)
        assert (one.detections, one.last_version) == (1, 2)
        assert not one.feed(ones, 125 * 4 * rng.gamma(50.0, 0.02, 200), 1, 3), "another metric, another loss"
    assert not watch.feed(ones, 125 * rng.gamma(50.0, 0.02, 200), 1, 4), "a fall is good news"


@pytest.mark.parametrize("rise", [1.0, 1.3])
def test_the_watch_goes_on_from_its_bytes_as_if_nothing_had_been_and_stays_small(rise: float) -> None:
    rng, watch, again = np.random.default_rng(3), LossWatch(), LossWatch()
    losses = 125 * rng.gamma(2.0, 0.5, 6_000) * np.where(np.arange(6_000) < 3_000, 1.0, rise)
    for version, loss in enumerate(losses[:, None]):
        events = np.full(1, 125.0)
        assert watch.feed(events, loss, 0, version) == again.feed(events, loss, 0, version)
        if version % 97 == 0:
            again = LossWatch.from_bytes(again.to_bytes())
    assert (watch.detections > 0) == (rise > 1.0)
    assert watch.to_bytes() == again.to_bytes()
    assert len(watch.to_bytes()) < 20_000


def test_a_rise_of_the_loss_is_told_and_asks_for_a_search() -> None:
    settings = settings_for(model={"segments": 3, "warm_up": 100, "refits": True})
    rng = np.random.default_rng(0)
    # As far apart as before, but each group is wider.
    far = [
        event(
            f"f{i}",
            2e5 + 60 * i,
            age=20.0 + 15 * g + 5 * rng.normal(),
            income=1e3 * (g + rng.normal() / 10),
            purchases=g + 0.5,
        )
        for i, g in enumerate(rng.integers(3, size=4_000).tolist())
    ]
    store, recorder = run_memory([*shoppers(6_000, customers=4_000), *far], settings, batch_records=250)
    assert [found.detector for found in recorder.of(Detected) if found.detector == "loss"]
    job = restored(store, settings)
    assert job.replica.watch.detections >= 1
    assert verified(store, settings).decisions > 2
    # A search that came between answers a detection as well.
    first = asked(store)
    assert 1 <= first <= job.replica.watch.detections
    for _ in range(3):
        produce(store, shoppers(10))
        loop(store, settings, Recorder(), 250).run()
    assert asked(store) == first, "a restart does not ask again"
    job = restored(store, settings)
    store.commit(
        CommitPlan(
            store.ownership(),
            {},
            internal=[(Log.MODEL, 0, encode_entry(DecisionRecord(Asked(job.state.version, job.replica.digest), 1)))],
        )
    )
    with pytest.raises(DifferenceError, match="the model was asked, which does not follow"):
        verified(store, settings)


def asked(store: EmbeddedTransport) -> int:
    records = [decode_model_record(entry.payload) for entry in model_entries(store, 0)]
    return sum(isinstance(record, DecisionRecord) and isinstance(record.decision, Asked) for record in records)


SPENDING: list[dict[str, Any]] = [
    {"name": "orders", "aggregate": "count", "transform": "log1p"},
    {"name": "spend", "aggregate": "sum", "transform": "log1p"},
]


def spending(days: int, rise_at: int, factor: float, customers: int = 300) -> list[Event]:
    """Customers who buy every other day, for `factor` times as much from a day on."""
    rng, events = np.random.default_rng(1), list[Event]()
    for day in range(days):
        for i in range(customers):
            if rng.random() < 0.5:
                spend = float(rng.lognormal(2.0, 0.6)) * (factor if day >= rise_at else 1.0)
                events.append(event(f"c{i}", 86_400.0 * (day + i / customers), spend=spend))
    return events


@pytest.mark.parametrize(("factor", "told"), [(1.0, []), (1.4, ["spend"])])
def test_what_accumulates_drifts_by_what_is_gained_once_and_until_that_is_over(factor: float, told: list[str]) -> None:
    settings = settings_for(features=SPENDING, model={"segments": 3, "warm_up": 200}, metrics={"drift_horizon": "10d"})
    store, recorder = EmbeddedTransport(":memory:"), Recorder()
    produce(store, [*spending(62, 30, factor), event("c7", 62 * 86_400.0, erase=True)])
    job = loop(store, settings, recorder, 500, None, FixedClock())
    job._drift = DriftReports(0.0)
    job.run()
    found = [one for one in recorder.of(Detected) if one.detector != "loss"]
    assert [one.details["feature"] for one in found] == told
    assert [one.details["feature"] for one in recorder.of(DriftEnded)] == told
    measured = [one.drift for one in recorder.of(DriftMeasured) if "spend" in one.drift.features]
    assert measured
    if found:
        (one,) = found
        # The rise began within a horizon.
        assert 1.15 < float(str(one.details["after"])) / float(str(one.details["before"])) < 1.45
        assert re.match(r"spend: mean gain in 10 days \d+\.?\d* -> \d+\.?\d* \(\+\d\d%\), PSI 0\.", one.message)
    state = restored(store, settings).state
    assert len(state.copies) == 3
    assert customer_key("c7") not in set(np.concatenate([copy.keys for copy in state.copies]).tolist())
    assert customer_key("c8") in set(state.copies[-1].keys.tolist())
    assert not verified(store, settings).lost


def test_levels_of_what_accumulates_are_compared_where_somebody_gave_a_reference() -> None:
    plain = settings_for(features=SPENDING, model={"segments": 3, "warm_up": 200})
    store, recorder = run_memory(spending(20, 99, 1.0), plain, batch_records=500)
    assert recorder.of(DriftMeasured)
    assert not any(one.drift.features or one.drift.shares.value for one in recorder.of(DriftMeasured))
    rng = np.random.default_rng(0)
    other = Reference(list(range(500)), np.log1p(np.abs(rng.normal(3.0, 1.0, (2, 500)))))
    drift = restored(store, dataclasses.replace(plain, reference=other)).drift()
    assert drift is not None
    assert "spend" in drift.drifted

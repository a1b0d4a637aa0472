"""The model of a table is that of its customers: at every commit, whatever came before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.model.new_segments import places_of
from streamseg.core.model.population import Sums
from streamseg.core.model.transitions import apply_step
from streamseg.core.numeric.portable_math import signed_expm1
from streamseg.engine.catalog import segment_records
from streamseg.engine.job import Job
from streamseg.transports.embedded import EmbeddedTransport
from tests.exploring import explored
from tests.harness import Event, Recorder, event, loop, produce, restored, settings_for, shoppers, verified

FEATURES: list[dict[str, Any]] = [
    {"name": "age"},
    {"name": "spend", "field": "income", "aggregate": "sum", "half_life": "2h", "transform": "log1p"},
    {"name": "purchases", "weight": 0.0},
]
MODEL: dict[str, Any] = {"segments": 3, "warm_up": 20, "retag_every": "40m"}


def recounted(job: Job) -> Sums:
    """What the customers that were seen in the epoch add up to, from their rows alone."""
    state, spec = job.state, job.settings.model
    population = state.population
    assert population is not None
    found = population.no_sums()
    for task in job.tasks.values():
        sweep, table = task.mark.sweep, task.table
        if sweep.model_epoch != population.epoch:
            continue
        rows = np.array(sorted(table.index.values()), dtype=np.int64)
        epochs = table.column("epoch")[rows]
        for number, boundary in (
            (sweep.epoch, sweep.as_of),
            (sweep.before if sweep.same else -2, sweep.before_as_of),
        ):
            here = rows[epochs == number]
            x, time = table.vectors(here, boundary), table.column("time")[here].astype(np.int64)
            places = places_of(state, table.column("segment")[here].astype(np.int64))
            counts = (places >= 0) & ~np.isnan(x[: spec.n_weighted]).any(axis=0)
            if spec.active_within is not None:
                counts &= np.maximum(time, boundary) - time <= spec.active_within * 1e6
            found = found.plus(population.contribution(x[:, counts], places[counts]))
            found.evaluated += len(here)
    return found


def check(job: Job) -> None:
    if not job.state.ready:
        return
    # What the open step holds is in the table already.
    state = job.replica.copy_of_state()
    apply_step(state, job.settings.model, [record.delta for record in job.replica.open])
    population = state.population
    assert population is not None
    expected = recounted(job)
    for name in expected.__struct_fields__:
        assert np.array_equal(getattr(population.sums, name), getattr(expected, name)), name
    assert state.customers == sum(task.table.n_customers for task in job.tasks.values())


def stream(n: int, customers: int, seed: int) -> list[Event]:
    """With customers who are erased, and one who is far beyond all others."""
    rng = np.random.default_rng(seed)
    out = shoppers(n, customers, seed)
    for at in sorted(rng.integers(n // 3, n, 6).tolist(), reverse=True):
        out.insert(at, event(f"c{int(rng.integers(customers))}", at * 60.0, erase=True))
    out.insert(n // 2, event("far", n * 30.0, age=30.0, income=10.0, purchases=1e90))
    out.insert(n // 2, event("farther", n * 30.0, age=1e12, income=10.0, purchases=1.0))
    return out


@given(
    st.integers(0, 1000),
    st.sampled_from([3, 17, 60]),
    st.integers(1, 3),
    st.sampled_from(["none", "90m"]),
    st.sampled_from([10, 50]),
)
@explored(100)
def test_sums_are_the_tables_at_every_commit(seed: int, batch: int, n_partitions: int, within: str, step: int) -> None:
    settings = settings_for(step=step, features=FEATURES, model=MODEL | {"active_within": within})
    transport = EmbeddedTransport(":memory:", n_partitions=n_partitions)
    produce(transport, stream(240, 40, seed))
    running = loop(transport, settings, Recorder(), batch)
    while not running.step():
        check(running.job)
    check(running.job)
    check(restored(transport, settings))
    assert not verified(transport, settings).lost


@pytest.mark.parametrize("batch", [40, 333])
def test_a_center_is_the_mean_of_the_customers_counted_beside_it(batch: int) -> None:
    settings = settings_for(step=50, model={"segments": 3, "warm_up": 30})
    transport = EmbeddedTransport(":memory:")
    produce(transport, stream(900, 60, 4))
    running = loop(transport, settings, Recorder(), batch)
    while not running.step():
        pass
    job = running.job
    state, table = job.state, job.tasks[0].table
    assert state.population is not None
    rows = np.array(sorted(table.index.values()), dtype=np.int64)
    x, segment = table.vectors(rows, 0), table.column("segment")[rows]
    counted = ~state.population.outliers(x)
    assert (~counted).sum() == state.population.sums.outliers == 2
    for place, segment_id in enumerate(state.ids):
        mean = x[:, counted & (segment == segment_id)].mean(axis=1)
        assert state.tagging.centers.centers[:, place] == pytest.approx(mean, rel=1e-9)


def test_means_before_a_logarithm_are_those_of_the_customers_counted() -> None:
    settings = settings_for(step=50, features=FEATURES[:2], model=MODEL)
    transport = EmbeddedTransport(":memory:")
    produce(transport, stream(900, 60, 4))
    running = loop(transport, settings, Recorder(), 333)
    while not running.step():
        pass
    job = running.job
    state, task = job.state, job.tasks[0]
    assert state.population is not None
    assert state.raw_means is not None
    rows = np.array(sorted(task.table.index.values()), dtype=np.int64)
    x, segment = task.table.vectors(rows, task.mark.sweep.as_of), task.table.column("segment")[rows]
    counted = ~state.population.outliers(x)
    records = {record.segment_id: record for record in segment_records(state, settings.model, 0)}
    rounding = state.population.quantum[-1] / 2.0
    for place, segment_id in enumerate(state.ids):
        here = signed_expm1(x[1, counted & (segment == segment_id)])
        assert state.raw_means[0, place] == pytest.approx(here.mean(), rel=1e-9, abs=rounding)
        record = records[segment_id]
        assert record.mean["spend"] == pytest.approx(here.mean(), rel=1e-9, abs=rounding)
        low, median, high = record.ranges["spend"]
        assert low == pytest.approx(here.min(), rel=1e-4)
        assert high == pytest.approx(here.max(), rel=1e-4)
        assert np.sort(here)[(len(here) - 1) // 2] == pytest.approx(median, rel=1e-4)
        assert record.mean["age"] == record.center["age"]

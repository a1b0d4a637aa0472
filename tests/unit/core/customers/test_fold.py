"""What events make of customers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.core.customers.aggregates import NO_TIME, Feature
from streamseg.core.customers.feature_layout import Layout
from streamseg.core.customers.fold import Events, Fold, fold
from streamseg.core.customers.table import CustomerTable

DAY = 86_400_000_000
OF_ALL_KINDS = (
    Feature("last", "x"),
    Feature("count", "", "count", half_life_s=86400.0, every_event=True),
    Feature("sum", "x", "sum", half_life_s=43200.0),
    Feature("mean", "x", "mean", half_life_s=86400.0),
    Feature("max", "x", "max"),
    Feature("gap", "", "gap", every_event=True),
    Feature("n", "x", "count"),
    Feature("total", "x", "sum"),
    Feature("silent", "", "recency", every_event=True),
    Feature("without x", "x", "recency"),
)


def events_of(rows: list[tuple[str, int, float]], erase: set[int] | None = None) -> Events:
    """(customer, day, x), x NaN for absent."""
    ids, days, xs = zip(*rows, strict=True)
    values = np.array(xs, dtype=np.float64)
    flags = np.array([i in (erase or set()) for i in range(len(rows))])
    return Events(list(ids), np.array(days, dtype=np.int64) * DAY, flags, {"x": values}, {})


def folded(table: CustomerTable, events: Events) -> Fold:
    result = fold(table, events, NO_TIME)
    table.apply(result.change())
    return result


def values(features: tuple[Feature, ...], *batches: list[tuple[str, int, float]]) -> list[float]:
    """The features of the customer of the last event."""
    table = CustomerTable(Layout(features))
    for batch in batches:
        result = folded(table, events_of(batch))
    return [float(value) for value in result.x[:, -1]]


def test_each_aggregate_is_what_its_name_says() -> None:
    found = values(OF_ALL_KINDS, [("c", 0, 4.0), ("c", 1, 8.0), ("c", 3, np.nan)])
    expected = [8.0, 0.125 + 0.25 + 1, 4 / 64 + 8 / 16, (4 * 0.5 + 8) / 1.5, 8.0, 1.5, 2.0, 12.0, 0.0, 2.0]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations([("c", 0, 4.0), ("c", 1, 8.0), ("c", 3, 2.0)])), ids=str)
def test_order_of_arrival_does_not_matter(order: tuple[tuple[str, int, float], ...]) -> None:
    expected = values(OF_ALL_KINDS, [("c", 0, 4.0), ("c", 1, 8.0), ("c", 3, 2.0)])
    assert values(OF_ALL_KINDS, list(order)) == pytest.approx(expected, rel=1e-12)
    assert values(OF_ALL_KINDS, *([event] for event in order)) == pytest.approx(expected, rel=1e-12)


def test_a_late_event_does_not_overwrite_a_last_value() -> None:
    assert values((Feature("a", "x"),), [("c", 5, 1.0)], [("c", 4, 2.0)]) == [1.0]
    assert values((Feature("a", "x"),), [("c", 5, 1.0)], [("c", 5, 2.0)]) == [2.0]


ROWS = st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(-9, 9) | st.just(np.nan))


@given(st.lists(ROWS, min_size=1, max_size=30), st.integers(1, 29))
def test_customers_do_not_depend_on_how_events_are_cut(rows: list[tuple[str, int, float]], cut: int) -> None:
    whole, parts = CustomerTable(Layout(OF_ALL_KINDS)), CustomerTable(Layout(OF_ALL_KINDS))
    folded(whole, events_of(rows))
    for part in (rows[:cut], rows[cut:]):
        if part:
            folded(parts, events_of(part))
    for customer in {row[0] for row in rows}:
        for spec in whole.specs[7:]:
            one = whole.column(spec.name)[whole.index[customer]]
            other = parts.column(spec.name)[parts.index[customer]]
            assert one.tobytes() == other.tobytes()


def test_an_erased_customer_leaves_nothing_and_its_row_is_given_away() -> None:
    table = CustomerTable(Layout((Feature("a", "x"),)))
    folded(table, events_of([("a", 0, 1.0), ("b", 0, 2.0), ("c", 0, 3.0)]))
    folded(table, events_of([("b", 1, np.nan)], erase={0}))
    assert "b" not in table.index
    assert table.ids == ["a", None, "c"]
    assert np.isnan(table.column("a.value")[1])
    folded(table, events_of([("d", 2, 5.0), ("e", 2, 6.0)]))
    assert table.index == {"a": 0, "c": 2, "d": 1, "e": 3}


def test_a_customer_erased_and_seen_again_in_one_batch_starts_anew() -> None:
    table = CustomerTable(Layout((Feature("n", "x", "count"),)))
    folded(table, events_of([("a", 0, 1.0), ("a", 0, 1.0)]))
    result = folded(table, events_of([("a", 1, 1.0), ("a", 1, 1.0), ("a", 2, 1.0)], erase={1}))
    assert result.x[0, [0, 2]].tolist() == [3.0, 1.0]
    assert result.complete.tolist() == [True, False, True]
    assert table.column("n.sum").tolist() == [1.0]


def test_a_customer_seen_and_erased_in_one_batch_is_never_written() -> None:
    table = CustomerTable(Layout((Feature("n", "x", "count"),)))
    change = fold(table, events_of([("a", 0, 1.0), ("b", 0, 1.0), ("a", 0, 1.0)], erase={2}), NO_TIME).change()
    assert change.touched.new_ids == ["b"]
    table.apply(change)
    assert table.index == {"b": 1}
    assert table.free == [0]


def test_one_hot_spreads_and_unknown_texts_are_none_of_the_categories() -> None:
    table = CustomerTable(Layout((Feature("plan", "plan", categories=("basic", "gold")), Feature("a", "x", weight=0.0))))
    base = events_of([("a", 0, 1.0), ("b", 0, 1.0), ("c", 0, 1.0)])
    events = base._replace(texts={"plan": ["gold", "other", None]})
    result = folded(table, events)
    assert [row.name for row in table.layout.rows] == ["plan=basic", "plan=gold", "a"]
    assert result.x[:2, :2].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert result.complete.tolist() == [True, True, False]


def test_values_are_seen_as_of_a_boundary_when_customers_fall_silent() -> None:
    table = CustomerTable(Layout((Feature("s", "x", "sum", half_life_s=86400.0),)))
    folded(table, events_of([("a", 0, 8.0)]))
    assert table.vectors(np.array([0]), 3 * DAY)[0].tolist() == [1.0]
    assert table.vectors(np.array([0]), -DAY)[0].tolist() == [8.0]


def test_log1p_is_signed() -> None:
    table = CustomerTable(Layout((Feature("s", "x", "sum", transform="log1p"),)))
    result: Any = folded(table, events_of([("a", 0, -8.0), ("b", 0, 8.0)]))
    assert result.x[0] == pytest.approx([-np.log1p(8), np.log1p(8)])


def test_a_mean_whose_weight_has_faded_to_nothing_stays() -> None:
    features = (Feature("m", "x", "mean", half_life_s=1.0), Feature("g", "", "gap", half_life_s=1.0, every_event=True))
    assert values(features, [("c", 0, 4.0), ("c", 1, np.nan), ("c", 9, np.nan)]) == [4.0, 8.0]
    assert values(features, [("c", 0, 4.0), ("c", 9, 2.0)]) == [2.0, 9.0]


def test_snapshot_rows_that_are_too_large_for_a_record_are_halved() -> None:
    table = CustomerTable(Layout((Feature("a", "x"),)))
    folded(table, events_of([("a", 0, 1.0), ("b", 0, 2.0), ("c", 0, 3.0)]))
    (whole,) = table.chunks(10)
    again = CustomerTable(table.layout)
    for half in whole.halves():
        again.put(half)
    assert again.index == table.index
    assert again.column("a.value").tolist() == [1.0, 2.0, 3.0]


def test_recency_grows_while_a_customer_is_silent_and_a_late_event_does_not_shorten_it() -> None:
    table = CustomerTable(Layout((Feature("silent", "", "recency", every_event=True), Feature("r", "x", "recency"))))
    folded(table, events_of([("a", 4, 1.0), ("a", 6, np.nan), ("b", 5, np.nan), ("a", 1, 2.0)]))
    rows = np.array([table.index["a"], table.index["b"]])
    assert table.vectors(rows, 10 * DAY)[:, 0].tolist() == [4.0, 6.0]
    silent, of_x = table.vectors(rows, 10 * DAY)[:, 1].tolist()
    assert silent == 5.0
    assert np.isnan(of_x)

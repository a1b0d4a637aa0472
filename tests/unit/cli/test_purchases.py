"""Segments of a table of purchases, beside pandas' groupby of the same customers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.commands import ran

SEGMENTS = 4


@pytest.fixture
def purchases(here: Path) -> pd.DataFrame:
    """Half a year: regulars, big spenders of whom some lapsed, and one-off customers."""
    rng = np.random.default_rng(11)
    kinds = [(160, 14, 25.0, 180), (80, 9, 240.0, 180), (60, 9, 220.0, 70), (300, 1.5, 12.0, 180)]
    parts, first = [], 0
    for n, orders, spend, days in kinds:
        customer = np.repeat(np.arange(first, first + n), 1 + rng.poisson(orders, n))
        amount = np.round(spend * np.exp(rng.normal(0.0, 0.4, len(customer))), 2)
        parts.append(pd.DataFrame({"customer_id": customer, "day": rng.uniform(0.0, days, len(customer)), "amount": amount}))
        first += n
    # A time that is alone far ahead would be held back: the last ones are close together.
    last = pd.DataFrame({"customer_id": range(20), "day": 180.0 + np.arange(20) / 1_440, "amount": 25.0})
    frame = pd.concat([*parts, last]).sort_values("day", ignore_index=True)
    frame["event_time"] = pd.to_datetime("2026-01-01") + pd.to_timedelta(np.round(frame.day * 86_400), unit="s")
    frame[["customer_id", "event_time", "amount"]].to_csv("purchases.csv", index=False)
    return frame


def end_of_day(purchases: pd.DataFrame) -> pd.Timestamp:
    """Recency is as of the end of the day of the last event, for all alike."""
    end: pd.Timestamp = purchases.event_time.max().ceil("D")
    return end


def days_before(time: pd.Timestamp, purchases: pd.DataFrame) -> pd.Series[float]:
    days: pd.Series[float] = (time - purchases.event_time).dt.total_seconds() / 86_400
    return days


@pytest.mark.parametrize("half_life", [None, "20d"])
def test_profiles_are_what_groupby_gives(here: Path, purchases: pd.DataFrame, half_life: str | None) -> None:
    ran("init", "--template", "rfm")
    fading = f', half_life="{half_life}"' if half_life else ""
    features = (
        '[{name="recency",aggregate="recency",transform="log1p"},'
        '{name="frequency",aggregate="count",transform="log1p"},'
        f'{{name="monetary",field="amount",aggregate="sum",transform="log1p"{fading}}}]'
    )
    sets = ["--set", f"features={features}", "--set", "model.warm_up=200", "--set", f"model.segments={SEGMENTS}"]
    ran("run", "-i", "purchases.csv", "-o", "tags.jsonl", *sets)
    tags = [json.loads(line) for line in Path("tags.jsonl").read_bytes().splitlines()]
    segment = {tag["customer_id"]: tag["segment_id"] for tag in tags if tag["segment_id"] is not None}

    fades = 0.5 ** (days_before(purchases.event_time.max(), purchases) / 20.0) if half_life else 1.0
    days = days_before(end_of_day(purchases), purchases)
    table = purchases.assign(days=days, worth=purchases.amount * fades).groupby("customer_id")
    expected = pd.DataFrame({"recency": table.days.min(), "frequency": table.size(), "monetary": table.worth.sum()})
    expected["segment"] = [segment[str(customer)] for customer in expected.index]
    means, sizes = expected.groupby("segment").mean(), expected.groupby("segment").size()

    found = json.loads(ran("segments", "--json"))
    assert len(found) == SEGMENTS
    assert sum(one["size"] for one in found) == len(expected)
    for one in found:
        assert one["size"] == sizes[one["segment_id"]]
        assert one["suggested_name"] is None
        for feature in ("recency", "frequency", "monetary"):
            assert one["mean"][feature] == pytest.approx(means.loc[one["segment_id"], feature], rel=1e-6, abs=1e-6)
    said = ran("segments")
    assert f"as they were at {purchases.event_time.max():%Y-%m-%d %H:%M} UTC" in said
    assert f"recency: days before {end_of_day(purchases):%Y-%m-%d %H:%M} UTC" in said
    ran("verify")


def test_a_run_that_goes_on_behind_an_end_sees_customers_as_of_the_new_one(here: Path, purchases: pd.DataFrame) -> None:
    rows = Path("purchases.csv").read_text().splitlines(keepends=True)
    ran("init", "--template", "rfm")
    sets = ["--set", "model.warm_up=200", "--set", f"model.segments={SEGMENTS}"]
    for end in (len(rows) // 2, len(rows) - 40, len(rows)):
        Path("purchases.csv").write_text("".join(rows[:end]))
        ran("run", "-i", "purchases.csv", "-o", "tags.jsonl", *sets)
        there = purchases[: end - 1]
        recency = days_before(end_of_day(there), there).groupby(there.customer_id).min()
        found = json.loads(ran("segments", "--json"))
        mean = sum(one["mean"]["recency"] * one["size"] for one in found) / sum(one["size"] for one in found)
        assert mean == pytest.approx(recency.mean(), rel=1e-6)
    ran("verify")

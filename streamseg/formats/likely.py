"""Which name of an input is likely meant by a configured one that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What columns are often called.
_USUAL = {
    "customer_id": ("customer", "user", "client", "member", "household", "account", "shopper", "id"),
    "event_time": ("time", "date", "timestamp", "ts", "created", "occurred", "when"),
}


def setting_of(name: str, customer_id: str, event_time: str) -> str:
    """The key of the configuration that says which field `name` is."""
    return {customer_id: "input.customer_id", event_time: "input.event_time"}.get(name, "the feature's field")


def likely_name(name: str, there: Iterable[str], setting: str) -> str | None:
    """Which of the names that are there is likely meant by one that is not. `setting`: as of `setting_of`."""
    by_lower = {one.lower(): one for one in there}
    words = _USUAL.get(setting.removeprefix("input."), ())
    usual = [one for word in words for lower, one in by_lower.items() if word in re.split(r"[^a-z]+", _words(one, lower))]
    close = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
    return by_lower[close[0]] if close else usual[0] if usual else None


def _words(name: str, lower: str) -> str:
    """Parts of a name in camel case, too: "InvoiceDate" has the word "date"."""
    return lower + " " + re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()

"""Names in words."""

from __future__ import annotations

import pytest

from streamseg.model.naming import says_the_same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("High spend, slightly high purchases", "High purchases, high spend", True),
        ("Very low spend", "Low spend (2)", True),
        ("High spend", "Low spend", False),
        ("High spend", "High spend, low age", False),
        ("Segment 3", "High spend", False),
    ],
)
def test_a_name_fits_as_long_as_the_same_features_are_high_and_low(one: str, other: str, same: bool) -> None:
    assert says_the_same(one, other) is same

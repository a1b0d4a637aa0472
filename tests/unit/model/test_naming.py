"""Names in words."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.model.naming import name_beside, names_of, outdated

FEATURES = ["recency", "total_spend"]


@pytest.mark.parametrize(
    ("name", "z", "others", "unfit"),
    [
        ("High total spend", [0.1, 0.8], [], False),
        ("High total spend, low recency", [-0.6, 0.8], [], False),
        # A word is kept a little beyond where it is assigned.
        ("High total spend", [0.0, 0.42], [], False),
        ("High total spend", [0.0, 0.38], [], True),
        ("Slightly high total spend", [0.0, 0.2], [], False),
        ("Slightly high total spend", [0.0, 0.1], [], True),
        ("High total spend", [0.0, -0.8], [], True),
        ("Very high total spend", [0.0, 1.2], [], False),
        ("Very high total spend", [0.0, 0.6], [], True),
        ("Slightly high total spend", [0.0, 0.9], [], True),
        # What sets the customers apart most is missing.
        ("High total spend", [-1.0, 0.5], [], True),
        ("High total spend", [-0.7, 0.5], [], False),
        ("Average", [0.2, 0.1], [], False),
        ("Average", [0.2, 0.9], [], True),
        ("High total spend (2)", [0.0, 0.8], ["High total spend"], False),
        ("High total spend (2)", [0.0, 0.8], ["Low total spend"], True),
        # Other words are a person's, or an external model's.
        ("Champions", [0.0, 3.0], [], False),
        ("High visits", [0.0, 3.0], [], False),
    ],
)
def test_a_name_is_outdated_where_it_is_not_true_not_all_or_numbered_for_nothing(
    name: str, z: list[float], others: list[str], unfit: bool
) -> None:
    assert outdated(name, np.array(z), FEATURES, [*others, name]) is unfit


def test_new_names_are_not_outdated_and_all_different() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        z = rng.normal(size=(2, 5))
        names = names_of(z, FEATURES)
        assert len(set(names)) == 5
        assert not any(outdated(name, z[:, i], FEATURES, names) for i, name in enumerate(names))
        beside = name_beside(z, 0, FEATURES, names[1:])
        assert beside not in names[1:]
        assert not outdated(beside, z[:, 0], FEATURES, [beside, *names[1:]])


def test_a_segment_about_the_middle_is_average_and_another_order_is_no_other_name() -> None:
    z = np.array([[0.3, -0.9, 1.1, -2.0], [0.2, -0.7, 1.2, -1.6]])
    assert names_of(z[:, :3], FEATURES) == ["Average", "Low recency, low total spend", "High total spend, high recency"]
    beside = name_beside(z, 3, FEATURES, ["Average", "Low total spend, low recency", "High total spend, high recency"])
    assert beside == "Very low recency, very low total spend"

"""Names in words."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.core.model.names import Traits, name_beside, names_of, outdated
from streamseg.core.numeric.types import Array

FEATURES = ["recency", "total_spend"]


def plain(z: Array) -> Traits:
    """Traits of features that are no categories."""
    none = np.zeros(len(FEATURES), dtype=np.bool_)
    return Traits.of(FEATURES, z, z, none, none)


def silent(z: Array) -> Traits:
    """Traits of which the first is days since the last event."""
    return Traits.of(FEATURES, z, z, np.zeros(2, dtype=np.bool_), np.array([True, False]))


def test_customers_who_were_not_there_for_long_are_lapsed_and_others_recent() -> None:
    z = np.array([[0.8, -0.8, 1.4, 0.3, -1.4], [0.1, 0.9, 0.1, -0.1, 0.0]])
    names = names_of(silent(z))
    assert names == ["Lapsed", "High total spend, recent", "Very lapsed", "Average", "Very recent"]
    assert not any(outdated(name, silent(z), i, names) for i, name in enumerate(names))
    assert outdated("Recent", silent(z), 0)
    assert outdated("Very lapsed", silent(z), 0)
    assert not outdated("Lapsed customers", silent(z), 1)
    assert name_beside(silent(z), 2, ["Lapsed"]) == "Very lapsed"


def test_of_several_recencies_the_name_says_which() -> None:
    features, z = ["visit_days", "order_days"], np.array([[0.9, -0.6], [-0.8, 0.9]])
    traits = Traits.of(features, z, z, np.zeros(2, dtype=np.bool_), np.ones(2, dtype=np.bool_))
    names = names_of(traits)
    assert names == ["Lapsed by visit days, recent by order days", "Lapsed by order days, recent by visit days"]
    assert not any(outdated(name, traits, i, names) for i, name in enumerate(names))
    assert outdated("Lapsed", traits, 0) is False


@pytest.mark.parametrize(
    ("name", "z", "others", "unfit"),
    [
        ("High total spend", [0.1, 0.8], [], False),
        ("High total spend", [0.1, 1.3], [], False),
        ("High total spend", [0.1, 1.4], [], True),
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
    assert outdated(name, plain(np.array(z)[:, None]), 0, [*others, name]) is unfit


def test_new_names_are_not_outdated_and_all_different() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        z = rng.normal(size=(2, 5))
        names = names_of(plain(z))
        assert len(set(names)) == 5
        assert not any(outdated(name, plain(z), i, names) for i, name in enumerate(names))
        beside = name_beside(plain(z), 0, names[1:])
        assert beside not in names[1:]
        assert not outdated(beside, plain(z), 0, [beside, *names[1:]])


def test_a_segment_about_the_middle_is_average_and_another_order_is_no_other_name() -> None:
    z = np.array([[0.3, -0.9, 1.1, -2.0], [0.2, -0.7, 1.2, -1.6]])
    assert names_of(plain(z[:, :3])) == ["Average", "Low recency, low total spend", "High total spend, high recency"]
    beside = name_beside(plain(z), 3, ["Average", "Low total spend, low recency", "High total spend, high recency"])
    assert beside == "Very low recency, very low total spend"


def test_a_category_is_told_by_the_share_of_members_who_have_it() -> None:
    features = ["spend", "tier=gold", "tier=silver", "tier=none"]
    shares = np.array([[5.0, 4.0, 1.0], [0.9, 0.3, 0.0], [0.1, 0.4, 0.02], [0.0, 0.3, 0.98]])
    z = np.array([[1.5, 0.1, -1.0], [1.4, 0.6, -1.1], [-0.9, 0.3, -1.2], [-1.3, -0.9, 1.6]])
    traits = Traits.of(features, z, shares, np.array([False, True, True, True]), np.zeros(4, dtype=np.bool_))
    # The other categories of a field say no more where one is that of most.
    assert names_of(traits) == ["Very high spend, mostly gold", "Rarely none, often gold", "Mostly none, low spend"]
    assert not any(outdated(name, traits, i) for i, name in enumerate(names_of(traits)))
    assert outdated("Mostly gold, high spend", traits, 1)
    assert outdated("Often gold, high spend", traits, 0)
    assert name_beside(traits, 2, ["Low spend, mostly none"]) == "Mostly none, low spend (2)"


def test_a_category_that_two_fields_have_is_told_with_its_field() -> None:
    traits = Traits.of(
        ["app=yes", "news_letter=yes"],
        np.array([[1.0], [0.0]]),
        np.array([[1.0], [0.2]]),
        np.ones(2, dtype=np.bool_),
        np.zeros(2, dtype=np.bool_),
    )
    assert names_of(traits) == ["Mostly app yes"]
    assert not outdated("Mostly app yes", traits, 0)


def test_after_one_round_at_the_end_no_name_is_outdated() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        then, now = rng.normal(scale=1.2, size=(2, 2, 4))
        names = names_of(plain(then))
        misfits = [i for i, name in enumerate(names) if outdated(name, plain(now), i, names)]
        taken = [name for i, name in enumerate(names) if i not in misfits]
        for i in misfits:
            names[i] = name_beside(plain(now), i, taken)
            taken.append(names[i])
        assert len(set(names)) == 4
        assert not any(outdated(names[i], plain(now), i, names) for i in misfits)

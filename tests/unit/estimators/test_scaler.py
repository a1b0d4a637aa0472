"""`StandardScaler`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler as BatchScaler

from streamseg import StandardScaler

X = pd.DataFrame(np.random.default_rng(0).normal([1e9, -3.0], [1.0, 5.0], (400, 2)), columns=["a", "b"])


def test_it_agrees_with_scikit_learn() -> None:
    scaler = StandardScaler()
    for part in np.array_split(np.arange(400), 7):
        scaler.learn_many(X.iloc[part])
    batch = BatchScaler().fit(X)
    assert list(scaler.means.values()) == pytest.approx(batch.mean_, rel=1e-12)
    assert list(scaler.variances.values()) == pytest.approx(batch.var_, rel=1e-7)
    assert scaler.transform_many(X).to_numpy() == pytest.approx(batch.transform(X), abs=1e-6)


def test_rows_one_by_one_and_merged_halves_agree() -> None:
    one, left, right = StandardScaler(), StandardScaler(), StandardScaler()
    for row in X.to_dict("records"):
        one.learn_one(row)
    left.learn_many(X.iloc[:150])
    right.learn_many(X.iloc[150:])
    left += right
    assert left.variances == pytest.approx(one.variances, rel=1e-7)
    assert left.means == pytest.approx(one.means, rel=1e-14)


def test_the_inverse_undoes_the_transform() -> None:
    scaler = StandardScaler()
    scaler.learn_many(X)
    row = {"a": 1e9 + 0.5, "b": 2.0}
    assert scaler.inverse_transform_one(scaler.transform_one(row)) == pytest.approx(row)


def test_features_come_and_go() -> None:
    scaler = StandardScaler()
    scaler.learn_one({"a": 1.0})
    scaler.learn_one({"b": 5.0, "a": 3.0})
    scaler.learn_one({"b": 7.0})
    assert scaler.means == {"a": 2.0, "b": 6.0}
    assert scaler.n_seen == {"a": 2.0, "b": 2.0}
    assert scaler.transform_one({"c": 4.0, "a": 2.0}) == {"c": 0.0, "a": 0.0}


def test_forgetting_by_time_does_not_depend_on_order() -> None:
    forward, backward = StandardScaler("10s"), StandardScaler("10s")
    events = [(0.0, 1.0), (5.0, 3.0), (20.0, 7.0)]
    for t, x in events:
        forward.learn_one({"x": x}, t=t)
    for t, x in reversed(events):
        backward.learn_one({"x": x}, t=t)
    assert forward.means["x"] == pytest.approx(5.182652614207681, rel=1e-12)
    assert backward.means["x"] == pytest.approx(5.182652614207681, rel=1e-12)
    assert backward.variances["x"] == pytest.approx(forward.variances["x"], rel=1e-12)


def test_scalers_of_different_half_lives_do_not_merge() -> None:
    scaler = StandardScaler()
    with pytest.raises(ValueError, match="half-lives"):
        scaler += StandardScaler(10)

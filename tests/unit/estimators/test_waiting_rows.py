"""Rows of `learn_one` wait for the next step of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamseg import Segmenter


def test_rows_one_by_one_wait_for_the_step_and_come_to_what_they_come_to_at_once() -> None:
    rng = np.random.default_rng(4)
    x = (8.0 * rng.normal(size=(3, 2)))[rng.integers(0, 3, 2_750)] + rng.normal(size=(2_750, 2))
    for parameters in ({"n_segments": 3}, {"n_segments": "auto", "half_life": "auto"}):
        one, many = (Segmenter(("a", "b"), warm_up=400, **parameters) for _ in range(2))
        for row in x.tolist():
            one.learn_one(dict(zip("ab", row, strict=True)))
        assert one.n_seen == 2_750
        kept = Segmenter.from_dict(json.loads(json.dumps(one.to_dict())))
        many.learn_many(x[:400])
        for first in (400, *range(500, 2_500, 500)):
            many.learn_many(x[first : first // 500 * 500 + 500])
        assert one.centers == many.centers
        many.learn_many(x[2_500:])
        for each in (one, kept):
            assert each.n_seen == 2_750
            each.close_step()
            assert each.to_dict() == many.to_dict()


def test_a_row_that_cannot_be_learned_is_an_error_at_once() -> None:
    model = Segmenter(("x",), half_life="30d")
    with pytest.raises(ValueError, match="needs t"):
        model.learn_one({"x": 1.0})
    for bad in ({"w": -1.0}, {"w": float("inf")}, {"t": float("nan")}):
        with pytest.raises(ValueError, match="finite"):
            model.learn_one({"x": 1.0}, **({"t": 1.0} | bad))
    assert model.n_seen == 0

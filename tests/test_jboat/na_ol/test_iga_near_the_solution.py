"""IGA's formula where the lower level has nearly converged: kept, and said."""

import logging

import numpy as np
from problems import Point
import pytest
from small_trainers import make


def run(K, repeat=1):
    """f = y^2/2 - x y, F = x^2/2 + (y - 3)^2/2 at x = 1, y_0 = 0, lr 0.5, where the hypergradient tends to -1."""
    trainer = make(
        ll_model=Point([0.0]),
        ul_model=Point([1.0]),
        ll_objective=lambda b, ul, ll: (0.5 * ll() ** 2 - ul() * ll()).sum(),
        ul_objective=lambda b, ul, ll: (0.5 * ul() ** 2 + 0.5 * (ll() - 3.0) ** 2).sum(),
        ll_lr=0.5,
        lower_iters=K,
        na_op=["IGA"],
    )
    return [trainer.hypergradient({}, {}).gradients[0].item() for _ in range(repeat)]


@pytest.mark.parametrize("K", [1, 2, 5, 10, 20])
def test_the_formula_is_the_published_one(K):
    y = 1 - 0.5**K
    assert run(K) == [pytest.approx(1 - (y - 3) / (y - 1) * -y, rel=1e-4)]


@pytest.mark.parametrize(("K", "warned"), [(1, 0), (2, 0), (5, 1), (10, 1)])
def test_a_small_lower_gradient_is_said_once(K, warned, caplog):
    with caplog.at_level(logging.WARNING, logger="jboat"):
        run(K, repeat=3)
    messages = [r.getMessage() for r in caplog.records if r.getMessage().startswith("IGA: the lower gradient's norm")]
    assert len(messages) == warned
    if warned:
        assert f"{0.5**K:.2g}" in messages[0]


def test_a_lower_gradient_of_exactly_zero_gives_nan():
    assert np.isnan(run(60)).all()

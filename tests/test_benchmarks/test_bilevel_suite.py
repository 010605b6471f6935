"""The benchmark suite: numpy's derivatives against differences, and jboat's steps against those by hand."""

from pathlib import Path
import sys

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "suite"))

from jboat_methods import loader, make_trainer
from methods_by_hand import BY_HAND
from numpy_problems import PROBLEMS
from runs import make_batches
import suite_page

SMALL = {"quadratic": {"samples": 256}, "logistic": {"samples": 320}, "softmax": {"samples": 320}, "cleaning": {}}
STEPS = 50


def made(name):
    return PROBLEMS[name](0, **SMALL[name])


@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives_by_hand_are_those_of_the_values(name):
    p, rng, size = made(name), np.random.default_rng(0), 1e-5
    x, y = (a + 0.3 * rng.normal(size=a.shape) for a in (p.x0, p.y0))
    u, v = rng.normal(size=x.shape), rng.normal(size=y.shape)
    batch = p.lower

    def slope(value):
        return (value(size) - value(-size)) / (2 * size)

    assert slope(lambda t: p.lower_value(x, y + t * v, batch)) == pytest.approx((p.lower_by_y(x, y, batch) * v).sum())
    assert slope(lambda t: p.lower_value(x + t * u, y, batch)) == pytest.approx((p.lower_by_x(x, y, batch) * u).sum())
    hessian_v, mixed_v = p.products(x, y, v, batch)
    np.testing.assert_allclose(slope(lambda t: p.lower_by_y(x, y + t * v, batch)), hessian_v, rtol=1e-6, atol=1e-8)
    assert slope(lambda t: (p.lower_by_y(x + t * u, y, batch) * v).sum()) == pytest.approx((mixed_v * u).sum())
    by_y, by_x = p.upper_gradients(x, y, p.upper)
    upper = slope(lambda t: p.upper_value(x + t * u, y + t * v, p.upper))
    assert upper == pytest.approx((by_y * v).sum() + (by_x * u).sum())


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", BY_HAND)
def test_the_first_steps_are_those_by_hand(name, method):
    problem = made(name)
    lower, upper = make_batches(problem, 1)
    rates = 0.3 * problem.rates[0], 0.1 * problem.rates[1]
    path = BY_HAND[method](problem, lower, upper, *rates)
    for _ in range(STEPS):
        x, y = next(path)
    trainer = make_trainer(problem, method, *rates)
    trainer.fit(loader(lower), loader(upper), max_steps=STEPS)
    assert np.abs(x - problem.x0).max() > 1e-3
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-4, atol=1e-4)


def test_the_true_hypergradient_is_the_derivative_of_the_value_function():
    p, size = made("logistic"), 1e-4
    rng = np.random.default_rng(0)
    u = rng.normal(size=p.x0.shape)

    def value(t):
        y = p.solution(p.x0 + t * u)
        return np.logaddexp(0.0, -p.upper["target"] * (p.upper["data"] @ y)).mean()

    slope = (value(size) - value(-size)) / (2 * size)
    assert p.upper_value(p.x0, p.solution(p.x0), p.upper) == pytest.approx(value(0.0))
    assert slope == pytest.approx(p.hypergradient(p.x0, p.solution(p.x0)) @ u, rel=1e-3)


def test_the_page_names_what_is_slower(tmp_path):
    row = {
        "rates": [1.0, 0.5],
        "value": [2.0, 0.5],
        "hypergradient": [1.0, 0.1],
        "distance": [1.0, 0.2],
        "test_error": [0.5, 0.25],
    }
    rows = [
        {"method": name, "seconds": [1.0, 2.0], "steps": [1, n], **row}
        for name, n in (("SOBA", 200), ("SOBA numpy", 400))
    ]
    told = {"batch": 64, "limit": 2.0, "seeds": 1, "missing": "", "grid": "1", "machine": "a machine", "clock": "wall"}
    suite_page.write({"told": told, "problems": {"quadratic": rows}}, tmp_path / "page.md", tmp_path / "page.svg")
    text = (tmp_path / "page.md").read_text()
    assert "* quadratic, SOBA: 100 instead of 200 steps a second" in text
    assert "| SOBA | 1, 0.5 | 0.5000 | 1.0e-01 | 2.0e-01 | 0.250 | 100 | 400 |" in text

"""What is looked at of an objective in parts: calls that training makes as well, and nothing that ends the run."""

import logging

import jittor as jt
import numpy as np
from problems import Point
import pytest
from small_trainers import make

RNG = np.random.default_rng(0)
LOWER = {"data": RNG.normal(size=(12, 4)).astype("float32"), "target": np.zeros(12, "float32")}


def residuals(batch, ul_model, ll_model):
    out = (batch["data"] * (ll_model() + ul_model()).reshape(1, -1)).sum(1).tanh()
    return (out - batch["target"]) ** 2


def trainer_of(f, parts):
    return make(
        ll_objective=f,
        ul_objective=lambda batch, ul_model, ll_model: residuals(batch, ul_model, ll_model).mean(),
        ll_model=Point(0.5 * np.ones(4)),
        ul_model=Point(np.zeros(4)),
        lower_micro_batches=parts,
    )


def fit(f, parts, caplog):
    trainer = trainer_of(f, parts)
    with caplog.at_level(logging.INFO, "jboat"):
        trainer.fit(LOWER, LOWER, max_steps=2, check_second_order=False)
    return trainer


def test_no_call_has_fewer_samples_than_a_part(caplog):
    sizes = []

    def f(batch, ul_model, ll_model):
        sizes.append(batch["data"].shape[0])
        return residuals(batch, ul_model, ll_model).mean()

    fit(f, 4, caplog)
    assert set(sizes) == {3, 6}
    assert sizes.count(6) == 1


def test_a_size_that_an_objective_does_not_take_is_no_failure(caplog):
    def f(batch, ul_model, ll_model):
        if batch["data"].shape[0] != 3:
            raise ValueError("three at a time")
        return residuals(batch, ul_model, ll_model).mean()

    trainer = fit(f, 4, caplog)
    assert trainer.state.step == 2
    assert caplog.text.count("is not known, since of 6 samples at once it raises ValueError") == 1


def test_what_is_not_finite_tells_nothing(caplog):
    """The first loop is infinite; the second one shows that the objective is a sum."""
    factor = [float("inf")]

    def f(batch, ul_model, ll_model):
        return residuals(batch, ul_model, ll_model).sum() * factor[0]

    trainer = trainer_of(f, 2)
    with caplog.at_level(logging.WARNING, "jboat"):
        with pytest.raises(ArithmeticError):
            trainer.hypergradient(LOWER, LOWER, check_second_order=False)
        assert "samples is" not in caplog.text
        factor[0] = 1.0
        trainer.hypergradient(LOWER, LOWER, check_second_order=False)
    assert caplog.text.count("f of the first 12 samples is") == 1


def test_draws_are_noted_where_an_objective_has_several_values(caplog):
    def f(batch, ul_model, ll_model):
        return residuals(batch, ul_model, ll_model).sum() * jt.rand(1)

    fit(f, 4, caplog)
    assert "lower_micro_batches" not in caplog.text

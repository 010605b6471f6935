"""Objectives, metrics and flags of a wrong kind are errors that name them, before anything runs."""

from jboat import BilevelTrainer
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest


def make(**options):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        **{
            "ll_objective": problem.f,
            "ul_objective": problem.F,
            "ll_optimizer": jt.optim.SGD(list(ll_model.parameters()), 0.1),
            "ul_optimizer": jt.optim.SGD(list(ul_model.parameters()), 0.1),
            "lower_iters": 2,
            **options,
        },
    )


@pytest.mark.parametrize("name", ["ll_objective", "ul_objective", "gda_loss"])
@pytest.mark.parametrize("value", [3, "f", 0, ""])
def test_objectives_are_functions(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a function, got {value!r}"):
        make(**{name: value})


@pytest.mark.parametrize("value", [3, None])
def test_metrics_are_functions(value):
    with pytest.raises(TypeError, match=r"metrics\['m'\] must be a function, got"):
        make(metrics={"m": value})
    with pytest.raises(TypeError, match="metrics must be a dict of functions by name, got list"):
        make(metrics=[value])


def test_an_objective_that_counts_as_false_is_used():
    class Counted:
        calls = 0

        def __len__(self):
            return 0

        def __call__(self, batch, ul_model, ll_model):
            Counted.calls += 1
            return Quadratic().F(batch, ul_model, ll_model)

    make(ul_objective=Counted()).hypergradient({}, {})
    assert Counted.calls > 0


@pytest.mark.parametrize("name", ["warm_start", "deterministic"])
def test_flags_are_true_or_false(name):
    for value in ("False", None, 2, 0.0, []):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}".replace("[", r"\[")):
            make(**{name: value})
    assert getattr(make(**{name: np.False_}), name) is False
    assert getattr(make(**{name: 1}), name) is True


@pytest.mark.parametrize("name", ["ll_objective", "ul_objective"])
def test_a_loss_of_integers_is_named(name):
    def rounded(batch, ul_model, ll_model):
        return Quadratic().F(batch, ul_model, ll_model).int32()

    with pytest.raises(TypeError, match="rounded must return a float, which has derivatives, got int32"):
        make(**{name: rounded}).hypergradient({}, {})

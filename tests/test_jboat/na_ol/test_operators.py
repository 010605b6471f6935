"""The public face of the operators: signatures, attributes, and what they refuse."""

import importlib
import inspect

from chains import solve
from jboat.na_ol import sequential_hg
from jboat.na_ol.hyper_gradient import HyperGradient
from jboat.registry import DynamicalSystemRules, HyperGradientRules
from jboat.trajectory import Trajectory
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest

NAMES = ["CG", "FD", "FOA", "IAD", "IGA", "NS", "PTT", "RAD", "RGT"]


def operator_class(name):
    return getattr(importlib.import_module(f"jboat.na_ol.{name.lower()}"), name)


def build(name, **solver_config):
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    ll_var, ul_var = list(ll_model.parameters()), list(ul_model.parameters())
    optimizer = jt.optim.SGD(ll_var, 0.25)
    operator = operator_class(name)(
        ll_objective=problem.f,
        ul_objective=problem.F,
        ll_model=ll_model,
        ul_model=ul_model,
        ll_var=ll_var,
        ul_var=ul_var,
        solver_config={"lower_level_opt": optimizer, "gm_op": ["NGD"], "na_op": [name], **solver_config},
    )
    trajectory = Trajectory(ll_model, ll_var, optimizer)
    for _ in range(2):
        trajectory.advance(lambda model: problem.f({}, ul_model, model), keep_graph=True)
    return operator, {"ll_feed_dict": {}, "ul_feed_dict": {}, "auxiliary_model": trajectory}


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    cls = operator_class(name)
    expected = ["ll_objective", "ul_objective", "ll_model", "ul_model", "ll_var", "ul_var", "solver_config"]
    assert list(inspect.signature(cls).parameters) == expected
    compute = inspect.signature(cls.compute_gradients).parameters
    given = ["ll_feed_dict", "ul_feed_dict", "auxiliary_model", "max_loss_iter", "hyper_gradient_finished"]
    given = given[:-1] if name == "RAD" else given
    assert list(compute) == ["self", *given, "next_operation", "kwargs"]
    assert compute["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert compute["max_loss_iter"].default == 0
    assert compute["next_operation"].default is None
    assert list(inspect.signature(HyperGradient.__init__).parameters)[3:5] == ["ul_model", "ll_model"]


def test_documented_attributes():
    config = {"CG": {"k": 7, "tolerance": 0.5}, "GDA": {"alpha_init": 0.2, "alpha_decay": 0.8}, "FD": {"r": 0.3}}
    for name in ("CG", "NS"):
        operator, _ = build(name, **config)
        assert (operator.ll_lr, operator.K, operator.tolerance) == (0.25, 7, 0.5)
    own, _ = build("NS", **config, NS={"k": 3})
    assert own.K == 3
    fd, _ = build("FD", **config)
    assert (fd.ll_lr, fd._r) == (0.25, 0.3)
    for name in ("CG", "NS", "FD", "IGA"):
        operator, _ = build(name, **config)
        assert (operator.alpha, operator.alpha_decay, operator.gda_loss) == (0.2, 0.8, None)
        assert operator.dynamic_initialization is False
        assert build(name, **{**config, "gm_op": ["DI", "NGD"]})[0].dynamic_initialization is True


@pytest.mark.parametrize("name", ["RAD", "CG", "NS", "FD", "IGA", "IAD"])
def test_terminal_operators_return_detached_computed_gradients(name):
    operator, run = build(name)
    result = operator.compute_gradients(**run)
    assert isinstance(result["upper_loss"], float)
    assert result["hyper_gradient_finished"] is True
    (gradient,) = result["hyper_gradient"]
    assert np.abs(jt.grad(gradient.sum(), [*operator.ul_var])[0].numpy()).max() == 0


@pytest.mark.parametrize("name", ["RAD", "CG", "NS", "FD", "IGA"])
def test_terminal_operators_refuse_a_successor(name):
    operator, run = build(name)
    with pytest.raises(AssertionError, match=f"{name} finishes the hypergradient: remove CG after it"):
        operator.compute_gradients(**run, next_operation="CG")


@pytest.mark.parametrize("name", ["PTT", "RGT", "FOA"])
def test_modifiers_need_a_successor(name):
    operator, run = build(name, RGT={"truncate_iter": 1})
    with pytest.raises(AssertionError, match=f"{name} prepares a hypergradient but computes none"):
        operator.compute_gradients(**run, max_loss_iter=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_hypergradient_is_refused(name):
    operator, run = build(name, RGT={"truncate_iter": 1})
    following = "RAD" if name in ("PTT", "RGT", "FOA") else None
    with pytest.raises(AssertionError, match="finished"):
        operator.compute_gradients(**run, max_loss_iter=1, hyper_gradient_finished=True, next_operation=following)


def test_ptt_and_rgt_need_their_numbers():
    ptt, run = build("PTT")
    with pytest.raises(AssertionError, match=r"PTT needs max_loss_iter > 0.*got 0"):
        ptt.compute_gradients(**run, next_operation="RAD")
    with pytest.raises(ValueError, match=r"time must lie in 0\.\.2 or be -1, got 3"):
        ptt.compute_gradients(**run, next_operation="RAD", max_loss_iter=3)
    rgt, run = build("RGT")
    with pytest.raises(AssertionError, match=r"RGT needs .*truncate_iter.* > 0"):
        rgt.compute_gradients(**run, next_operation="RAD")


@pytest.mark.parametrize("name", ["PTT", "RGT", "FOA", "IAD"])
def test_modifiers_return_the_arguments_of_the_next_operator(name):
    operator, run = build(name, RGT={"truncate_iter": 1})
    passed = operator.compute_gradients(**run, max_loss_iter=1, next_operation="CG", extra=5)
    assert set(run) <= set(passed)
    assert passed["extra"] == 5
    assert passed["hyper_gradient_finished"] is False
    assert isinstance(passed["auxiliary_model"], Trajectory)


def test_rules_and_order():
    groups = [["PTT", "FOA", "RGT"], ["IAD", "RAD", "FD", "IGA"], ["CG", "NS", "NYS"]]
    assert HyperGradientRules.get_gradient_order() == groups
    assert DynamicalSystemRules.get_gradient_order() == [["GDA", "DI"], ["NGD", "DM"]]
    order = HyperGradientRules.get_gradient_order()
    assert sequential_hg.validate_and_adjust_order(["RAD", "RGT", "PTT"], order) == ["PTT", "RGT", "RAD"]
    with pytest.raises(ValueError, match=r"unknown operator 'rad'.*Did you mean 'RAD'"):
        sequential_hg.validate_and_adjust_order(["rad"], order)
    with pytest.raises(ValueError, match="repeated"):
        sequential_hg.validate_and_adjust_order(["RAD", "RAD"], order)
    with pytest.raises(ValueError, match="is not a chain"):
        sequential_hg.makes_functional_na_operation(["FOA", "RAD"])


def test_a_chain_returns_one_dict_an_operator():
    problem = Quadratic()
    result = solve(problem, ("NGD",), ("RAD", "PTT"), lower_iters=3, lr=0.1)
    assert result["hyper_gradient_finished"]
    ul_model, ll_model = problem.models()
    chain = sequential_hg.makes_functional_na_operation(
        ["RAD", "PTT"],
        ll_objective=problem.f,
        ul_objective=problem.F,
        ll_model=ll_model,
        ul_model=ul_model,
        ll_var=list(ll_model.parameters()),
        ul_var=list(ul_model.parameters()),
        solver_config={},
    )
    results = chain.compute_gradients(
        ll_feed_dict={}, ul_feed_dict={}, auxiliary_model=result["trajectory"], max_loss_iter=2
    )
    assert [type(o).__name__ for o in chain.gradient_instances] == ["PTT", "RAD"]
    assert [r["hyper_gradient_finished"] for r in results] == [False, True]
    assert results[0]["max_loss_iter"] == 2


@pytest.mark.parametrize("form", ["plain", "params", "kwargs"])
def test_objectives_with_and_without_params(form):
    problem = Quadratic()
    seen = []

    def plain(feed, ul_model, ll_model):
        return problem.F(feed, ul_model, ll_model)

    def params(feed, ul_model, ll_model, params=None):
        seen.append(params)
        return problem.F(feed, ul_model, lambda: ll_model(params=params))

    def kwargs(feed, ul_model, ll_model, **kwargs):
        seen.append(kwargs["params"])
        return problem.F(feed, ul_model, lambda: ll_model(**kwargs))

    upper = {"plain": plain, "params": params, "kwargs": kwargs}[form]

    class Same:
        models, f, F = problem.models, staticmethod(problem.f), staticmethod(upper)

    exact = problem.reference(("RAD",), K=3, lr=0.1)[0]
    got = solve(Same, ("NGD",), ("RAD",), lower_iters=3, lr=0.1)["hyper_gradient"][0].numpy()
    np.testing.assert_allclose(got, exact, rtol=1e-4)
    assert len(seen) == (0 if form == "plain" else 1)


def test_inside_an_objective_attributes_parameters_and_calls_are_at_the_iterate():
    problem = Quadratic()
    ul_model, ll_model = problem.models()
    before = ll_model.value.numpy().copy()

    class Peeking:
        F = staticmethod(problem.F)

        @staticmethod
        def models():
            return ul_model, ll_model

        @staticmethod
        def f(feed, ul, model):
            called, attribute, listed, direct = model(), model.value, model.parameters()[0], ll_model.value
            for other in (attribute, listed, direct):
                np.testing.assert_array_equal(called.numpy(), other.numpy())
            return problem.f(feed, ul, model)

    solve(Peeking, ("NGD",), ("RAD",), lower_iters=3, lr=0.1)
    np.testing.assert_array_equal(ll_model.value.numpy(), before)

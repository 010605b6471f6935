"""What an objective is handed: the lower-level model itself, and ``params=`` where it takes it."""

import copy
from dataclasses import dataclass
import functools
import gc
import weakref

from jboat import BilevelTrainer, levels
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
import small_trainers

K, LR, UL_LR = 2, 0.5, 0.1


def named(call):
    def objective(batch, ul_model, ll_model, params):
        return call(batch, ul_model, lambda x: ll_model(x, params=params))

    return objective


def optional(call):
    def objective(batch, ul_model, ll_model, params=None):
        return call(batch, ul_model, lambda x: ll_model(x, params=params))

    return objective


def boats(call):
    def objective(feed, upper_model, lower_model, weights=0.0, **kwargs):
        return call(feed, upper_model, lambda x: lower_model(x, **kwargs))

    return objective


def plain(call):
    def objective(batch, ul_model, ll_model):
        return call(batch, ul_model, ll_model)

    return objective


def make(form, problem, f=Classifier.f, F=Classifier.F, **kwargs):
    return small_trainers.make(
        problem=problem,
        ll_objective=form(f),
        ul_objective=form(F),
        ll_lr=LR,
        ul_lr=UL_LR,
        lower_iters=K,
        **kwargs,
    )


def sgd(params, grads, state, step):
    return [p - LR * g for p, g in zip(params, grads, strict=True)], state


@pytest.mark.parametrize("form", [plain, optional, named, boats])
def test_every_form_works_in_hypergradient_fit_and_evaluate(form):
    problem = Classifier()
    exact = problem.unrolled_gradient(K, sgd)
    lower, upper = problem.batches()
    trainer = make(form, problem)
    np.testing.assert_allclose(trainer.hypergradient(lower, upper).gradients[0].numpy(), exact, rtol=2e-4, atol=1e-6)
    history = trainer.fit(lower, upper, max_steps=1, val_loader=upper)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), problem.weights - UL_LR * exact, rtol=1e-5, atol=1e-6)
    y_K = [p.numpy().astype(np.float64) for p in trainer.ll_var]
    at_y_K = problem._loss_and_gradient(y_K, problem.val, np.ones(problem.SAMPLES))[0]
    assert trainer.evaluate(upper)["ul_loss"] == pytest.approx(at_y_K, rel=1e-5)
    assert history["val_ul_loss"][-1] == pytest.approx(at_y_K, rel=1e-5)


@pytest.mark.parametrize("options", [{"na_op": ["CG"]}, {"na_op": ["FD"]}, {"fo_op": "MESO"}], ids=str)
@pytest.mark.parametrize("form", [named, boats])
def test_every_operator_calls_alike(form, options):
    got = []
    for written in (plain, form):
        problem = Classifier()
        trainer = make(written, problem, **options)
        trainer.fit(*problem.batches(), max_steps=2)
        got.append([v.numpy() for v in (*trainer.ul_var, *trainer.ll_var)])
    for one, other in zip(*got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_an_objective_gets_is_the_module_itself():
    problem = Classifier(hidden=5)
    ul_model, ll_model = problem.models()
    seen = []

    def by_layers(batch, upper, lower):
        seen.append(lower is ll_model and isinstance(lower, nn.Sequential) and lower[0] is ll_model[0])
        x = batch["data"]
        for layer in lower:
            x = layer(x)
        return x

    def f(batch, upper, lower):
        return Classifier.f(batch, upper, lambda _: by_layers(batch, upper, lower))

    def F(batch, upper, lower, **kwargs):
        return Classifier.F(batch, upper, lambda _: by_layers(batch, upper, lower))

    trainer = BilevelTrainer(
        ll_model, ul_model, f, F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), LR),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), UL_LR),
        lower_iters=K,
    )  # fmt: skip
    got = trainer.hypergradient(*problem.batches(), check_second_order=False).gradients[0].numpy()
    np.testing.assert_allclose(got, problem.unrolled_gradient(K, sgd), rtol=5e-4, atol=1e-6)
    trainer.evaluate(problem.batches()[1])
    assert len(seen) == K + 2
    assert all(seen)


class Shadowing(jt.Module):
    """Layers whose names a trajectory has too."""

    def __init__(self, model):
        self.first, self.last = model, nn.Tanh()
        self.losses, self.variables = "a string", 3

    def execute(self, x):
        return self.first(x)


def test_attributes_named_like_those_of_a_trajectory_are_the_models():
    problem = Classifier()
    ul_model, linear = problem.models()
    ll_model = Shadowing(linear)

    def f(batch, upper, lower, **kwargs):
        assert (lower.losses, lower.variables) == ("a string", 3)
        return Classifier.f(batch, upper, lower.first)

    trainer = BilevelTrainer(
        ll_model, ul_model, f, boats(Classifier.F),
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), LR),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), UL_LR),
        lower_iters=K,
    )  # fmt: skip
    got = trainer.hypergradient(*problem.batches()).gradients[0].numpy()
    np.testing.assert_allclose(got, problem.unrolled_gradient(K, sgd), rtol=2e-4, atol=1e-6)


def test_other_params_stand_for_the_variables_in_the_one_call():
    problem = Classifier()
    _, upper = problem.batches()

    def doubled(batch, ul_model, ll_model, params):
        twice = Classifier.F(batch, ul_model, lambda x: ll_model(x, params=[2.0 * p for p in params]))
        return twice - Classifier.F(batch, ul_model, ll_model)

    trainer = make(plain, problem, F=Classifier.F)
    trainer.current_run.problem.ul_objective = doubled
    value = [problem._loss_and_gradient([s * p for p in problem.start], problem.val, np.ones(24)) for s in (2.0, 1.0)]
    assert trainer.evaluate(upper)["ul_loss"] == pytest.approx(value[0][0] - value[1][0], abs=1e-6)
    loss = levels.call(doubled, upper, trainer.ul_model, trainer.ll_model, parameters=trainer.ll_var)
    exact = [2.0 * two - one for two, one in zip(value[0][1], value[1][1], strict=True)]
    for got, wanted in zip(jt.grad(loss, trainer.ll_var), exact, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-6)

    trainer.current_run.problem.ul_objective = lambda batch, ul, ll, params: ll(batch["data"], params=params[:1]).sum()
    with pytest.raises(ValueError, match="params must hold 2 Vars, one a variable, got 1"):
        trainer.evaluate(upper)
    assert "execute" not in vars(trainer.ll_model)


def test_a_copy_made_in_an_objective_is_a_model_of_its_own():
    problem = Classifier()
    _, upper = problem.batches()
    copies = []

    def F(batch, ul_model, ll_model, **kwargs):
        other = copy.deepcopy(ll_model)
        other.weight.assign(other.weight * 2.0)
        other.bias.assign(other.bias * 2.0)
        copies.append(other)
        return Classifier.F(batch, ul_model, lambda x: other(x, **kwargs) + 0.0 * ll_model(x, **kwargs))

    def without_params(batch, ul_model, ll_model, **kwargs):
        return F(batch, ul_model, ll_model)

    trainer = make(plain, problem, F=Classifier.F)
    trainer.current_run.problem.ul_objective = without_params
    exact = problem._loss_and_gradient([2.0 * p for p in problem.start], problem.val, np.ones(24))[0]
    assert trainer.evaluate(upper)["ul_loss"] == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(trainer.ll_model.weight.numpy(), problem.start[0], rtol=1e-6)
    (other,) = copies
    np.testing.assert_allclose(
        other(upper["data"]).numpy(), 2.0 * trainer.ll_model(upper["data"]).numpy(), rtol=1e-4, atol=1e-5
    )


class Own(jt.Module):
    """A model with a ``params`` of its own."""

    def __init__(self):
        self.value = jt.array([3.0])
        self.seen = []

    def execute(self, params=None):
        self.seen.append(params)
        return self.value * self.value


def test_a_models_own_params_and_its_own_execute_are_left_alone():
    own = Own()
    loss = levels.call(lambda b, u, m, params: m(params="mine"), {}, None, own, parameters=[own.value])
    assert loss.item() == 9.0
    assert own.seen == ["mine"]

    model = Point([2.0])
    model.execute = lambda: model.value * 5.0
    before = model.execute
    assert levels.call(lambda b, u, m, **kw: m(**kw), {}, None, model, parameters=[model.value]).item() == 10.0
    assert vars(model)["execute"] is before


def test_params_that_were_bound_are_what_they_were_bound_to():
    def objective(batch, ul_model, ll_model, params):
        return ll_model() * params

    model = Point([2.0])
    bound = functools.partial(objective, params=4.0)
    assert levels.call(bound, {}, None, model, parameters=[model.value]).item() == 8.0


def test_a_loss_that_is_the_variable_itself():
    """f = (y - x)^2 / 2 from y = 0, F = y: y_K = (1 - (1 - s)^K) x."""
    ll_model, ul_model = Point([0.0]), Point([2.0])
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        lambda batch, ul, ll: 0.5 * ((ll.value - ul.value) * (ll.value - ul.value)).sum(),
        lambda batch, ul, ll: ll.value,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), LR),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), UL_LR),
        lower_iters=K,
    )
    result = trainer.hypergradient({}, {})
    share = 1.0 - (1.0 - LR) ** K
    assert result.upper_loss == pytest.approx(2.0 * share)
    np.testing.assert_allclose(result.gradients[0].numpy(), [share], rtol=1e-6)


@dataclass
class Unhashable:
    """A callable that compares by value, and so has no hash."""

    factor: float

    def __call__(self, batch, ul_model, ll_model, **kwargs):
        return self.factor * Classifier.F(batch, ul_model, lambda x: ll_model(x, **kwargs))


def test_objectives_need_no_hash():
    problem = Classifier()
    trainer = make(plain, problem, F=Classifier.F)
    trainer.current_run.problem.ul_objective = Unhashable(3.0)
    exact = problem._loss_and_gradient(problem.start, problem.val, np.ones(24))[0]
    assert trainer.evaluate(problem.batches()[1])["ul_loss"] == pytest.approx(3.0 * exact, rel=1e-5)


def test_objectives_are_not_kept_alive():
    model = Point([2.0])

    def objective(batch, ul_model, ll_model, **kwargs):
        return ll_model(**kwargs) * 1.0

    levels.call(objective, {}, None, model, parameters=[model.value])
    gone = weakref.ref(objective)
    del objective
    gc.collect()
    assert gone() is None


def test_an_objective_that_fails_leaves_the_model_as_it_was():
    model = Point([2.0])

    def fails(batch, ul_model, ll_model, **kwargs):
        raise LookupError

    with pytest.raises(LookupError):
        levels.call(fails, {}, None, model, parameters=[model.value])
    assert "execute" not in vars(model)

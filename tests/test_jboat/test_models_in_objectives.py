"""Objectives get the user's own model, at the iterate in question: whatever a model can do works there as elsewhere."""

import threading

from chains import solve
from jboat import functional, levels
import jittor as jt
from jittor import nn
import numpy as np
from problems import Classifier, Point
import pytest
import small_trainers

K, LR, UL_LR = 2, 0.5, 0.1


def sgd(params, grads, state, step):
    return [p - LR * g for p, g in zip(params, grads, strict=True)], state


def by_index(model, x):
    return model[2](model[1](model[0](x)))


def by_slice(model, x):
    for layer in [*model[:1], *model[1:]]:
        x = layer(x)
    return x


def by_loop(model, x):
    for layer in model:
        x = layer(x)
    return x


def by_length(model, x):
    for i in range(len(model)):
        x = getattr(model, str(i))(x)
    return x


def by_names(model, x):
    p = dict(model.named_parameters())
    hidden = jt.tanh(nn.matmul_transpose(x, p["0.weight"]) + p["0.bias"])
    return nn.matmul_transpose(hidden, p["2.weight"]) + p["2.bias"]


def by_parameters(model, x):
    w0, b0, w1, b1 = model.parameters()
    return nn.matmul_transpose(jt.tanh(nn.matmul_transpose(x, w0) + b0), w1) + b1


def by_modules(model, x):
    for _, layer in model.named_modules()[1:]:
        x = layer(x)
    return x


class Layered(Classifier):
    """The classifier with objectives that run the model in a way of their own."""

    def __init__(self, forward, **kwargs):
        super().__init__(**kwargs)
        self.forward, self.seen = forward, []

    def models(self):
        ul_model, ll_model = super().models()
        self.ll_model = ll_model if self.hidden else nn.Sequential(ll_model)
        return ul_model, self.ll_model

    def run(self, model):
        self.seen.append(model is self.ll_model and type(model) is nn.Sequential and isinstance(model, jt.Module))
        return lambda x: self.forward(model, x)

    def f(self, batch, ul_model, ll_model):
        return Classifier.f(batch, ul_model, self.run(ll_model))

    def F(self, batch, ul_model, ll_model):
        return Classifier.F(batch, ul_model, self.run(ll_model))


def make(ul_model, ll_model, f, F, lr=LR, **kwargs):
    parts = {"ll_model": ll_model, "ul_model": ul_model, "ll_objective": f, "ul_objective": F}
    return small_trainers.make(**parts, ll_lr=lr, ul_lr=UL_LR, lower_iters=K, **kwargs)


WAYS = [by_index, by_slice, by_loop, by_length, by_names, by_parameters, by_modules]


@pytest.mark.parametrize("forward", WAYS)
def test_layers_in_the_trainer_in_evaluation_and_in_the_check_of_the_first_batch(forward):
    problem = Layered(forward, hidden=5)
    lower, upper = problem.batches()
    trainer = make(*problem.models(), problem.f, problem.F, metrics={"again": problem.F})
    exact = problem.unrolled_gradient(K, sgd)
    got = trainer.hypergradient(lower, upper).gradients[0].numpy()  # it makes the check
    np.testing.assert_allclose(got, exact, rtol=5e-4, atol=1e-6)
    at_start = problem._loss_and_gradient(problem.start, problem.val, np.ones(problem.SAMPLES))[0]
    assert trainer.evaluate(upper) == {name: pytest.approx(at_start, rel=1e-5) for name in ("ul_loss", "again")}
    trainer.fit(lower, upper, max_steps=1)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), problem.weights - UL_LR * exact, rtol=1e-5, atol=1e-6)
    assert all(problem.seen)


@pytest.mark.parametrize("forward", WAYS)
def test_layers_in_the_operators_alone(forward):
    problem = Layered(forward, hidden=5)
    result = solve(problem, ["NGD"], ["RAD"], lower_iters=K, lr=LR, batches=problem.batches())
    np.testing.assert_allclose(
        result["hyper_gradient"][0].numpy(), problem.unrolled_gradient(K, sgd), rtol=5e-4, atol=1e-6
    )
    assert len(problem.seen) == K + 1
    assert all(problem.seen)


@pytest.mark.parametrize(
    "options",
    [
        {"na_op": ["CG"]},
        {"na_op": ["NS"]},
        {"na_op": ["FD"]},
        {"na_op": ["IGA"]},
        {"na_op": ["PTT", "RAD"]},
        {"na_op": ["RGT", "RAD"], "solver_config": {"RGT": {"truncate_iter": 1}}},
        {"solver_config": {"RAD": {"remat_every": 1}}},
        {"gm_op": ["GDA", "NGD"]},
        {"gm_op": ["DI", "NGD"]},
        {"gm_op": ["DM"], "na_op": ["CG"]},
        {"gm_op": ["GDA", "DM"]},
        *({"fo_op": name} for name in ("ALTO", "GAFFO", "MESO", "PGDO", "VFO", "VSO")),
    ],
    ids=str,
)
def test_every_operator_hands_on_the_model_itself(options):
    """Run by its layer, the model gives the numbers to the last bit that it gives when it is called."""
    got = []
    for forward in (lambda model, x: model(x), lambda model, x: model[0](x)):
        problem = Layered(forward)
        trainer = make(*problem.models(), problem.f, problem.F, **options)
        trainer.fit(*problem.batches(), max_steps=2)
        assert problem.seen
        assert all(problem.seen)
        got.append([v.numpy() for v in (*trainer.ul_var, *trainer.ll_var)])
    for one, other in zip(*got, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(got[0][-1] - problem.start[-1]).min() > 1e-3  # ALTO moves y alone here


class Named(jt.Module):
    """Everything in it has a name that a trajectory knows too."""

    def __init__(self, layers):
        self.first, self.module, self.last = layers
        self.variables, self.losses, self.learning_rates = "variables", [1.0], nn.ModuleList(list(layers))
        self.upper_statistics = self.update_rule = self.optimizer_state = self.constant_gradients = None

    def evaluate(self, x):
        return self.module(self.first(x))

    def advance(self, x):
        return self.last(self.evaluate(x))

    def since(self, time):
        return self.learning_rates[time:]

    def until(self, time):
        return self.learning_rates[:time]

    def settle(self, *values):
        return values

    def pullback(self):
        return self.variables, self.losses


def by_everything(model, x):
    assert model.pullback() == ("variables", [1.0])
    assert model.settle(3) == (3,)
    assert model.until(1) == [model.first]
    assert model.since(2) == [model.last]
    assert len(model.learning_rates) == 3
    assert model.upper_statistics is model.update_rule is model.constant_gradients is None
    return model.advance(x)


def test_names_that_a_trajectory_knows_too_are_the_models():
    class Problem(Layered):
        def models(self):
            ul_model, layers = Classifier.models(self)
            self.ll_model = Named(list(layers))
            return ul_model, self.ll_model

    problem = Problem(by_everything, hidden=5)
    lower, upper = problem.batches()
    exact = problem.unrolled_gradient(K, sgd)
    result = solve(problem, ["NGD"], ["RAD"], lower_iters=K, lr=LR, batches=(lower, upper))
    np.testing.assert_allclose(result["hyper_gradient"][0].numpy(), exact, rtol=5e-4, atol=1e-6)
    trainer = make(*problem.models(), problem.f, problem.F)
    got = trainer.hypergradient(lower, upper).gradients[0].numpy()
    np.testing.assert_allclose(got, exact, rtol=5e-4, atol=1e-6)
    at_start = problem._loss_and_gradient(problem.start, problem.val, np.ones(problem.SAMPLES))[0]
    assert trainer.evaluate(upper)["ul_loss"] == pytest.approx(at_start, rel=1e-5)


def test_a_model_that_is_called_twice():
    """The mean over the batch is that of the means over its halves."""
    problem = Classifier(hidden=5)
    ul_model, ll_model = problem.models()
    half = problem.SAMPLES // 2

    def part(batch, start):
        return {name: value[start : start + half] for name, value in batch.items()}

    def f(batch, ul_model, ll_model):
        weights = ul_model().sigmoid()
        losses = [
            nn.cross_entropy_loss(ll_model(piece["data"]), piece["target"], reduction="none")
            for piece in (part(batch, 0), part(batch, half))
        ]
        return 0.5 * ((losses[0] * weights[:half]).mean() + (losses[1] * weights[half:]).mean())

    def F(batch, ul_model, ll_model):
        return 0.5 * sum(Classifier.F(part(batch, start), ul_model, ll_model) for start in (0, half))

    trainer = make(ul_model, ll_model, f, F)
    result = trainer.hypergradient(*problem.batches())
    np.testing.assert_allclose(result.gradients[0].numpy(), problem.unrolled_gradient(K, sgd), rtol=5e-4, atol=1e-6)


class Tied(jt.Module):
    """One vector under two names, one of them in a layer of its own."""

    def __init__(self, value):
        self.left = Point(value)
        self.right = self.left.value

    def execute(self):
        return self.left(), self.right


@pytest.mark.parametrize("call", [lambda m: m(), lambda m: (m.left.value, m.right), lambda m: (m.right, m.left())])
def test_tied_weights(call):
    """f = |l + r - x|^2 / 2 and F = l r / 2 with l = r = y: y_K = (1 - (1 - 4s)^K) x / 2 from 0, dF/dy = y."""
    rate, x = 0.2, np.array([1.0, -2.0])

    def f(batch, ul_model, ll_model):
        left, right = call(ll_model)
        return 0.5 * ((left + right - ul_model()) ** 2).sum()

    def F(batch, ul_model, ll_model):
        left, right = call(ll_model)
        return 0.5 * (left * right).sum()

    trainer = make(Point(x), Tied([0.0, 0.0]), f, F, lr=rate)
    assert len(trainer.ll_var) == 1
    result = trainer.hypergradient({}, {})
    share = 0.5 * (1.0 - (1.0 - 4.0 * rate) ** K)
    np.testing.assert_allclose(result.gradients[0].numpy(), share * share * x, rtol=1e-5)
    assert result.upper_loss == pytest.approx(0.5 * np.sum((share * x) ** 2), rel=1e-5)
    assert trainer.ll_model.right is trainer.ll_model.left.value


@pytest.mark.parametrize("na_op", ["RAD", "FD"])
def test_an_objective_that_is_the_variable_itself(na_op):
    """f = y has steps of size s, and F = (y - x)^2 / 2 the gradient x - y_K by x, since y_K does not depend on x."""
    start, x = 1.0, 4.0
    trainer = make(
        Point([x]), Point([start]),
        lambda batch, ul, ll: ll(),
        lambda batch, ul, ll: 0.5 * (ll() - ul()) ** 2,
        na_op=[na_op],
    )  # fmt: skip
    result = trainer.hypergradient({}, {}, check_second_order=False)
    reached = start - K * LR
    np.testing.assert_allclose(result.gradients[0].numpy(), [x - reached], rtol=1e-6)
    assert result.lower_loss == pytest.approx(reached + LR)
    assert result.upper_loss == pytest.approx(0.5 * (x - reached) ** 2)


class Nested(jt.Module):
    """Returns its variable itself, among others."""

    def __init__(self, value):
        self.value = jt.array(np.array(value, "float32"))

    def execute(self):
        return {"both": (self.value, [self.value, "a string"]), "none": None}


@pytest.mark.parametrize("pick", [lambda out: out["both"][0], lambda out: out["both"][1][0]])
def test_what_a_call_with_other_params_returns_keeps_its_value_and_its_history(pick):
    """F = sum((3 y)^2 / 2 - y^2 / 2) / 2 by a call with 3 y and one with y: 2 y^2, whose gradient is 4 y."""
    model = Nested([1.0, -2.0])

    def F(batch, ul_model, ll_model, params):
        tripled = pick(ll_model(params=[3.0 * p for p in params]))
        here = pick(ll_model(params=params))
        return 0.25 * (tripled * tripled - here * here).sum()

    loss = levels.call(F, {}, None, model, parameters=[model.value])
    assert loss.item() == pytest.approx(10.0)
    np.testing.assert_allclose(jt.grad(loss, model.value).numpy(), [4.0, -8.0], rtol=1e-6)


def test_a_variable_returned_among_others_keeps_its_value_and_its_history():
    model, value = Nested([1.0, -2.0]), jt.array([3.0, 4.0])
    out = functional.called_with([value], [model.value], model)
    for found in (out["both"][0], out["both"][1][0]):
        np.testing.assert_array_equal(found.numpy(), [3.0, 4.0])
        np.testing.assert_array_equal(jt.grad((found * found).sum(), value).numpy(), [6.0, 8.0])
    assert out["both"][1][1] == "a string"
    assert out["none"] is None
    np.testing.assert_array_equal(model.value.numpy(), [1.0, -2.0])


class Hooked(nn.Linear):
    """A class of its own, since Jittor changes the class whose module gets a hook."""


def test_hooks_see_the_model_and_count():
    """Doubling the output is doubling the parameters z = 2 y: y's steps of size s are steps of size 4 s of z."""
    problem = Classifier()
    problem.start = [p / 2.0 for p in problem.start]
    ul_model, linear = problem.models()
    ll_model = Hooked(problem.FEATURES, problem.CLASSES)
    ll_model.weight.assign(linear.weight)
    ll_model.bias.assign(linear.bias)
    seen = []

    def doubled(module, args, output):
        seen.append(module is ll_model and len(args) == 1)
        return 2.0 * output

    ll_model.register_forward_hook(doubled)
    problem.start = [2.0 * p for p in problem.start]

    def steps(params, grads, state, step):
        return [p - 4.0 * 0.1 * g for p, g in zip(params, grads, strict=True)], state

    lower, upper = problem.batches()
    trainer = make(ul_model, ll_model, Classifier.f, Classifier.F, lr=0.1)
    got = trainer.hypergradient(lower, upper).gradients[0].numpy()
    np.testing.assert_allclose(got, problem.unrolled_gradient(K, steps), rtol=5e-4, atol=1e-6)
    at_start = problem._loss_and_gradient(problem.start, problem.val, np.ones(problem.SAMPLES))[0]
    assert trainer.evaluate(upper)["ul_loss"] == pytest.approx(at_start, rel=1e-5)
    assert all(seen)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_objectives_with_params_in_two_threads_leave_nothing_in_their_model(order):
    model = Point([2.0])
    inside, may_end = threading.Barrier(3, timeout=60), [threading.Event(), threading.Event()]
    before, found = dict(vars(model)), [None, None]

    def run(i):
        def objective(batch, ul_model, ll_model, params):
            inside.wait()
            may_end[i].wait(timeout=60)
            return ll_model(params=[(i + 2.0) * p for p in params]) * 1.0

        found[i] = levels.call(objective, {}, None, model, parameters=[model.value]).item()

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    inside.wait()
    for i in order:
        may_end[i].set()
        threads[i].join(timeout=60)
    assert found == [4.0, 6.0]
    assert vars(model) == before


def test_an_objective_with_params_within_another_one_may_have_other_variables():
    class Pair(jt.Module):
        def __init__(self):
            self.left, self.right = jt.array([2.0]), jt.array([3.0])

        def execute(self):
            return self.left * self.right

    model = Pair()
    before = dict(vars(model))

    def inner(batch, ul_model, ll_model, params):
        return ll_model(params=[10.0 * p for p in params])

    def outer(batch, ul_model, ll_model, params):
        one = levels.call(inner, {}, None, ll_model, parameters=[ll_model.right])
        return one + ll_model(params=[10.0 * p for p in params])

    loss = levels.call(outer, {}, None, model, parameters=[model.left, model.right])
    assert loss.item() == 60.0 + 600.0
    assert vars(model) == before

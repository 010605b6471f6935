"""The trajectory: the module at its iterates and away from them, and what becomes of joined steps."""

import gc
import weakref

from chains import solve
from jboat import autodiff
from jboat.trajectory import Trajectory
import jittor as jt
from jittor import nn
import numpy as np
from problems import Point, Quadratic
import pytest

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def make(steps=2):
    model = nn.Linear(3, 2)
    trajectory = Trajectory(model, list(model.parameters()), jt.optim.SGD(model.parameters(), 0.5))
    for _ in range(steps):
        trajectory.advance(lambda m: (m(jt.array(X)) ** 2).mean(), keep_graph=True)
    return model, trajectory


def exact(parameters):
    weight, bias = (p.numpy() for p in parameters)
    return X @ weight.T + bias


def test_a_call_is_at_the_last_iterate_and_the_module_stays_as_it_is():
    model, trajectory = make()
    before = [p.numpy().copy() for p in model.parameters()]
    np.testing.assert_allclose(trajectory(jt.array(X)).numpy(), exact(trajectory.parameters(2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        trajectory.until(1)(jt.array(X)).numpy(), exact(trajectory.parameters(1)), rtol=1e-5, atol=1e-6
    )
    given = [p * 2.0 for p in trajectory.parameters(0)]
    np.testing.assert_allclose(trajectory(jt.array(X), params=given).numpy(), exact(given), rtol=1e-5, atol=1e-6)
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    assert np.abs(exact(trajectory.parameters(2)) - exact(trajectory.parameters(0))).max() > 1e-3


def test_inside_an_objective_calls_attributes_and_parameters_are_at_what_is_evaluated():
    model, trajectory = make()
    moved = [p.detach() + 1.0 for p in trajectory.parameters()]
    seen = {}

    def objective(m):
        assert m is model
        seen["call"] = m(jt.array(X)).numpy()
        seen["closure"] = model(jt.array(X)).numpy()
        seen["attribute"] = X @ m.weight.numpy().T + m.bias.numpy()
        seen["parameters"] = exact(m.parameters())
        seen["given"] = trajectory(jt.array(X), params=trajectory.parameters(0)).numpy()
        return (m(jt.array(X)) ** 2).sum()

    loss = trajectory.evaluate(objective, moved)
    given = seen.pop("given")
    np.testing.assert_allclose(given, exact(trajectory.parameters(0)), rtol=1e-5, atol=1e-6)
    for value in seen.values():
        np.testing.assert_allclose(value, exact(moved), rtol=1e-5, atol=1e-6)
    assert np.abs(jt.grad(loss, moved)[0].numpy()).max() > 0
    np.testing.assert_allclose(exact(trajectory.parameters()), exact(trajectory.parameters(2)))


def test_a_model_that_returns_its_variable():
    model = Point([1.0, 2.0])
    trajectory = Trajectory(model, [model.value], jt.optim.SGD([model.value], 0.5))
    trajectory.advance(lambda m: (m() ** 2).sum(), keep_graph=False)
    np.testing.assert_allclose(trajectory().numpy(), [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(model.value.numpy(), [1.0, 2.0])


def test_what_is_held_is_forgotten_after_an_exception():
    _, trajectory = make()

    def fail(m):
        raise LookupError

    with pytest.raises(LookupError):
        trajectory.evaluate(fail, trajectory.parameters(0))
    np.testing.assert_allclose(trajectory(jt.array(X)).numpy(), exact(trajectory.parameters(2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("time", [3, -2])
def test_there_are_no_other_iterates(time):
    with pytest.raises(ValueError, match=rf"time must lie in 0\.\.2 or be -1, got {time}"):
        make()[1].parameters(time)


def joined(steps, *, join, optimizer=jt.optim.SGD, draw=False):
    jt.set_global_seed(1)
    model, x = nn.Linear(3, 2), Point([0.3])
    trajectory = Trajectory(model, list(model.parameters()), optimizer(model.parameters(), 0.5))

    def f(m):
        out = m(jt.array(X))
        out = nn.dropout(out, 0.5, is_train=True) if draw else out
        return (out**2).mean() * x().exp().sum()

    for _ in range(steps):
        trajectory.advance(f, keep_graph=True, join=join)
    trajectory.settle()
    return trajectory, [x.value]


@pytest.mark.parametrize(("first", "last"), [(0, 12), (0, 3), (2, 12), (10, 12), (2, 4)])
def test_joined_steps_have_the_same_derivative_also_in_their_midst(first, last):
    found = []
    for join in (False, True):
        trajectory, x = joined(12, join=join)
        cotangent = [jt.ones_like(p) for p in trajectory.parameters(0)]
        by_x, by_start = trajectory.until(last).since(first).pullback(cotangent, x)
        alone, nothing = trajectory.until(last).since(first).pullback(cotangent, x, by_start=False)
        assert nothing == []
        np.testing.assert_allclose(alone[0].numpy(), by_x[0].numpy(), rtol=1e-6)
        found.append([v.numpy() for v in [*by_x, *by_start, *trajectory.parameters(last)]])
    for apart, together in zip(*found, strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("join", "inputs"), [(True, [3, 3]), (False, [*[3] * 11, 1])])  # x, weight and bias
def test_the_first_step_is_not_differentiated_by_its_start_unless_joined_steps_share_their_kernels(
    join, inputs, monkeypatch
):
    trajectory, x = joined(12, join=join)
    vjp, taken = autodiff.vjp, []

    def noted(outputs, variables, cotangents):
        taken.append(len(variables))
        return vjp(outputs, variables, cotangents)

    monkeypatch.setattr(autodiff, "vjp", noted)
    trajectory.pullback([jt.ones_like(p) for p in trajectory.parameters(0)], x, by_start=False)
    assert taken == inputs


def test_steps_of_a_big_model_are_not_joined(monkeypatch):
    monkeypatch.setattr("jboat.step_graphs.MOST_NUMBERS_TO_JOIN", 7)  # the model has 8
    assert [kept.start for kept in joined(3, join=True)[0]._graphs._kept] == [0, 1, 2]


def test_steps_that_draw_random_numbers_or_keep_state_are_not_joined():
    starts = {
        name: [kept.start for kept in joined(11, join=True, **kwargs)[0]._graphs._kept]
        for name, kwargs in {"plain": {}, "dropout": {"draw": True}, "Adam": {"optimizer": jt.optim.Adam}}.items()
    }
    apart = list(range(11))
    assert starts == {"plain": [*[0] * 10, 10], "dropout": apart, "Adam": apart}


def test_a_trajectory_goes_when_nobody_holds_it():
    """With it go the graphs of its steps, which are most of the memory: no garbage collector may be waited for."""
    gc.disable()
    try:
        trajectory, x = joined(3, join=True)
        trajectory.until(2).pullback([jt.ones_like(p) for p in trajectory.parameters(0)], x)
        gone = weakref.ref(trajectory)
        del trajectory
        assert gone() is None

        problem = Quadratic()
        result = solve(problem, ["GDA", "NGD"], ["PTT", "RAD"], lower_iters=2, lr=0.1)
        gone = weakref.ref(result.pop("trajectory"))
        assert gone() is None
    finally:
        gc.enable()

"""Update rules against Jittor's own optimizers, and their derivatives against finite differences."""

from jboat import autodiff, optim
import jittor as jt
import numpy as np
from numpy_optimizers import CASES
import pytest

STEPS = 20
RNG = np.random.default_rng(0)
CURVATURE = np.array([0.3, 1.0, 2.0, 0.0])  # the last entry never has a gradient
START = np.array([1.0, -2.0, 0.5, 3.0])
PUSH = np.array([0.2, -0.1, 0.4, 0.0])


def loss_of(params):
    curvature, push = jt.array(CURVATURE.astype("float32")), jt.array(PUSH.astype("float32"))
    return sum((0.5 * curvature * p * p + push * p).sum() for p in params)


@pytest.mark.parametrize("name", CASES)
def test_iterates_equal_jittors_own(name):
    cls, _, hyper = CASES[name]
    params = [jt.array((s * START).astype("float32")) for s in (1.0, -0.7)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5 * hyper["lr"]}]
    optimizer = cls(groups, **hyper)
    rule = optim.UpdateRule(optimizer, params)
    ours = [p.detach() for p in params]
    state = rule.fresh_state(ours)
    for _ in range(STEPS):
        ours, state = rule.update(ours, autodiff.grad(loss_of(ours), ours), state)
        ours = [p.detach() for p in ours]
        state = state._replace(slots=tuple(tuple(v.detach() for v in slots) for slots in state.slots))
        jt.sync(ours)
    assert optimizer.n_step == 0
    for _ in range(STEPS):
        optimizer.step(loss_of(params))
    for mine, theirs in zip(ours, params, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-6, atol=2e-6)
    rule.store(state)
    for mine, theirs in zip(state.slots, rule.load().slots, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert rule.load().step == STEPS


def unrolled(reference, hyper, start, push, steps=STEPS):
    p, state = start, {}
    for n in range(1, steps + 1):
        p, state = reference(p, CURVATURE * p + push, state, n, **hyper)
    return p


@pytest.mark.parametrize("name", CASES)
def test_derivative_equals_finite_differences(name):
    cls, reference, hyper = CASES[name]
    weights = np.array([1.0, -0.5, 2.0, 0.7])
    start, push = jt.array(START.astype("float32")), jt.array(PUSH.astype("float32"))
    optimizer = cls([start], **hyper)
    rule = optim.UpdateRule(optimizer, [start])
    curvature = jt.array(CURVATURE.astype("float32"))
    tape, leaves, state = [], [start], rule.fresh_state([start])
    for _ in range(STEPS):
        moved, new_state = rule.update(leaves, [curvature * leaves[0] + push], state)
        tape.append(([*leaves, *state.slots[0]], [*moved, *new_state.slots[0]]))
        values = [v.detach() for v in tape[-1][1]]
        jt.sync(values)
        leaves, state = values[:1], new_state._replace(slots=(tuple(values[1:]),))
    adjoint = [jt.array(weights.astype("float32")), *(jt.zeros_like(v) for v in state.slots[0])]
    by_push = jt.zeros_like(push)
    for inputs, outputs in reversed(tape):
        jt.sync([by_push, *adjoint])
        by_step, *adjoint = (v.detach() for v in autodiff.vjp(outputs, [push, *inputs], adjoint))
        by_push = (by_push + by_step).detach()
    by_start = adjoint[0]

    eps = 1e-6
    for got, which in ((by_start, 0), (by_push, 1)):
        exact = []
        for e in eps * np.eye(4)[:3]:  # the last entry's gradient is 0, where Adam's step has a kink
            shifts = [(e, 0 * e), (0 * e, e)][which]
            up = unrolled(reference, hyper, START + shifts[0], PUSH + shifts[1])
            down = unrolled(reference, hyper, START - shifts[0], PUSH - shifts[1])
            exact.append(weights @ (up - down) / (2 * eps))
        np.testing.assert_allclose(got.numpy()[:3], exact, rtol=2e-4, atol=2e-5)
        assert np.isfinite(got.numpy()).all()


def test_hyperparameters_are_read_at_every_call():
    p = jt.array([1.0])
    optimizer = jt.optim.SGD([p], lr=0.1)
    rule = optim.UpdateRule(optimizer, [p])
    optimizer.lr = 0.5
    (moved,), _ = rule.update([p], [jt.array([1.0])], rule.fresh_state([p]))
    assert moved.item() == pytest.approx(0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    assert rule.learning_rates() == [0.25]


def test_unsupported_optimizer_is_named_with_the_supported_ones():
    class Mine(jt.optim.SGD):
        pass

    p = jt.array([1.0])
    with pytest.raises(TypeError, match=r"Mine; supported are Adam, AdamW, Adan, RMSprop, SGD.*register_rule"):
        optim.UpdateRule(Mine([p], lr=0.1), [p])


def test_a_registered_rule_is_used():
    class SignDescent(jt.optim.Optimizer):
        pass

    @optim.register_rule(SignDescent)
    class SignRule(optim.Rule):
        def update(self, p, g, slots, step, h):
            return p - h["lr"] * g / g.abs(), ()

    p = jt.array([1.0])
    rule = optim.UpdateRule(SignDescent([p], 0.1), [p])
    (moved,), _ = rule.update([p], [jt.array([-7.0])], rule.fresh_state([p]))
    assert moved.item() == pytest.approx(1.1)


def test_a_variable_the_optimizer_does_not_hold_is_refused():
    p, q = jt.array([1.0]), jt.array([2.0])
    with pytest.raises(ValueError, match=r"does not hold variables number \[1\]"):
        optim.UpdateRule(jt.optim.SGD([p], lr=0.1), [p, q])

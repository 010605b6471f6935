"""First-order methods: one step against its formula in float64, and where each converges to."""

from functools import partial

from exact_steps import LOWER_ITERS as K
from exact_steps import (
    Exact,
    one_step_alto,
    one_step_gaffo,
    one_step_meso,
    one_step_pgdo,
    one_step_pgdo_gradient,
    one_step_vfo,
)
from jboat import BilevelTrainer
from jboat.callbacks import LRSchedule, ModelCheckpoint, schedules
import jittor as jt
from jittor import nn
import numpy as np
from problems import DIM_X, DIM_Y, Quadratic
import pytest
from scipy.optimize import lsq_linear, minimize
import small_trainers


def tame(rank=DIM_Y):
    """The quadratic with a weaker coupling and a stronger upper regulariser, so that plain steps converge fast."""
    problem = Quadratic(coupling=0.3, rank=rank)
    problem.rho = 1.0
    return problem


def make(method, problem, *, options=None, lower_iters=K, **kwargs):
    config = {method: options} if options else None
    return small_trainers.make(problem=problem, fo_op=method, solver_config=config, lower_iters=lower_iters, **kwargs)


def values(trainer):
    return trainer.ul_var[0].numpy().astype(float), trainer.ll_var[0].numpy().astype(float)


ONE_STEP = {
    "VFO": ("VFO", {"y_hat_lr": 0.2, "u1": 0.7}, one_step_vfo),
    "MESO": ("MESO", {"eta": 0.2, "gamma_1": 0.5, "c0": 3.0}, one_step_meso),
    "PGDO": ("PGDO", {"y_hat_lr": 0.2, "gamma_init": 2.0}, one_step_pgdo),
    "PGDO gradient": ("PGDO", {"penalty": "gradient", "gamma_init": 2.0}, one_step_pgdo_gradient),
    "ALTO": ("ALTO", None, one_step_alto),
    "GAFFO": ("GAFFO", {"eta": 0.2, "gamma": 2.0, "c0": 3.0}, one_step_gaffo),
    "GAFFO box": (
        "GAFFO",
        {"eta": 0.2, "gamma": 2.0, "c0": 3.0, "y_min": -0.3, "y_max": 0.4},
        lambda e, x, y: one_step_gaffo(e, x, y, -0.3, 0.4),
    ),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_step_equals_its_formula(name):
    method, options, exact = ONE_STEP[name]
    problem = tame()
    direction, y_new = exact(Exact(problem), problem.x0, problem.y0)
    trainer = make(method, problem, ll_lr=0.1, ul_lr=0.05, options=options)
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), direction, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(values(trainer)[1], problem.y0, rtol=1e-6)
    trainer.fit({}, {}, max_steps=1)
    x, y = values(trainer)
    np.testing.assert_allclose(x, problem.x0 - 0.05 * direction, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(y, y_new, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in ONE_STEP if name != "ALTO"])
def test_losses_are_those_before_the_step(name):
    method, options, _ = ONE_STEP[name]
    problem = tame()
    result = make(method, problem, ll_lr=0.1, ul_lr=0.05, options=options).hypergradient({}, {})
    np.testing.assert_allclose(result.upper_loss, problem.upper(problem.y0, problem.x0), rtol=1e-5)
    np.testing.assert_allclose(result.lower_loss, Exact(problem).f(problem.x0, problem.y0), rtol=1e-5)


def test_vso_value_is_differentiated_with_its_barrier():
    problem = tame()
    e = Exact(problem)
    options = {
        "z_loop": 3,
        "z_lr": 0.2,
        "ll_l2_reg": 0.1,
        "ul_l2_reg": 0.2,
        "ul_ln_reg": 0.5,
        "slack": 0.3,
        "boundary": 0.01,
    }
    z = problem.y0
    for _ in range(3):
        z = z - 0.2 * (e.f_y(problem.x0, z) + 0.1 * z)
    f_val = e.f(problem.x0, z) + 0.05 * z @ z + 0.3
    y = z
    for _ in range(2):
        gap = f_val - e.f(problem.x0, y)
        assert gap > 0.01
        y = y - 0.02 * (problem.upper_by_y(y, problem.x0) + 0.2 * y + 0.5 / gap * e.f_y(problem.x0, y))
    gap = f_val - e.f(problem.x0, y)
    by_x = problem.upper_by_x(y, problem.x0) - 0.5 / gap * (e.f_x(problem.x0, z) - e.f_x(problem.x0, y))
    trainer = make("VSO", problem, ll_lr=0.02, ul_lr=0.05, lower_iters=2, options=options)
    result = trainer.hypergradient({}, {})
    np.testing.assert_allclose(result.gradients[0].numpy(), by_x, rtol=5e-4, atol=1e-4)
    np.testing.assert_allclose(result.ll_parameters[0].numpy(), y, rtol=5e-4, atol=1e-4)


@pytest.mark.parametrize("s", [2.0, 0.5, 0.4999, -3.0])
def test_the_barrier_and_its_continuation(s):
    from jboat.fo_ol.vso import _barrier, _barrier_slope

    b = 0.5
    v = jt.array([s])
    value = _barrier(v, b)
    t = (s - b) / b
    exact = -np.log(s) if s >= b else -np.log(b) - t + 0.5 * t * t
    assert value.item() == pytest.approx(exact, rel=1e-5, abs=1e-6)
    slope = -1 / s if s >= b else (-1 + t) / b
    assert jt.grad(value, [v])[0].item() == pytest.approx(slope, rel=1e-5)
    assert _barrier_slope(s, b) == pytest.approx(slope)


@pytest.mark.parametrize("method", ["VFO", "MESO", "PGDO", "VSO", "GAFFO"])
def test_a_module_with_layers_gives_what_a_bare_vector_gives(method):
    """The same problem with y as the bias of a linear layer that is fed zeros."""

    class Layered(jt.Module):
        def __init__(self, value):
            self.layer = nn.Linear(1, DIM_Y)
            self.layer.weight.stop_grad()
            self.layer.bias.assign(jt.array(value.astype("float32")))

        def execute(self):
            return self.layer(jt.zeros((1, 1))).reshape(-1)

    problem = tame()
    options = {"VSO": {"z_loop": 3, "boundary": 0.5}}.get(method, {})
    plain = make(method, problem, ll_lr=0.02, ul_lr=0.05, options=options)
    layered = make(
        method,
        problem,
        ll_model=Layered(problem.y0),
        ll_optimizer=lambda params: jt.optim.SGD(params[-1:], 0.02),
        ul_lr=0.05,
        options=options,
    )
    for trainer in (plain, layered):
        trainer.fit({}, {}, max_steps=3)
    for one, other in zip(values(plain), values(layered), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def fading(steps, ll_lr, ul_lr, end):
    factor = end ** (1 / steps)
    upper, lower = schedules.exponential(ul_lr, factor), schedules.exponential(ll_lr, factor)
    return [LRSchedule(upper), LRSchedule(lower, level="lower")]


def trained(method, steps, *, ll_lr, ul_lr, lower_iters=10, options=None, end=1.0, rank=DIM_Y):
    problem = tame(rank)
    fade = fading(steps, ll_lr, ul_lr, end)
    trainer = make(method, problem, ll_lr=ll_lr, ul_lr=ul_lr, lower_iters=lower_iters, options=options, callbacks=fade)
    trainer.fit({}, {}, max_steps=steps)
    return Exact(problem), *values(trainer)


RANKS = pytest.mark.parametrize("rank", [DIM_Y, 5], ids=["strongly convex", "convex"])


@RANKS
def test_vfo_finds_the_bilevel_optimum(rank):
    options = {"y_hat_lr": 0.4, "u1": 1.0}
    e, x, y = trained("VFO", 800, ll_lr=0.1, ul_lr=0.1, lower_iters=20, options=options, end=0.01, rank=rank)
    assert e.reduced(x) == pytest.approx(e.reduced(e.optimum()), rel=1e-2)
    assert np.linalg.norm(y - e.best(x)) < 0.1
    assert e.reduced(e.p.x0) > 2 * e.reduced(x)


@RANKS
def test_meso_finds_the_bilevel_optimum(rank):
    options = {"eta": 0.3, "gamma_1": 1.0, "c0": 10.0}
    e, x, _ = trained("MESO", 800, ll_lr=0.1, ul_lr=0.2, options=options, rank=rank)
    assert e.reduced(x) == pytest.approx(e.reduced(e.optimum()), rel=1e-2)


@RANKS
def test_gaffo_finds_the_bilevel_optimum(rank):
    options = {"eta": 0.3, "gamma": 1.0, "c0": 10.0, "p": 0.25}
    e, x, _ = trained("GAFFO", 800, ll_lr=0.1, ul_lr=0.2, options=options, rank=rank)
    assert e.reduced(x) == pytest.approx(e.reduced(e.optimum()), rel=1e-2)


def test_gaffo_finds_the_bilevel_optimum_in_a_box():
    box = (-0.6, 0.6)
    options = {"eta": 0.3, "gamma": 1.0, "c0": 10.0, "p": 0.25, "y_min": box[0], "y_max": box[1]}
    e, x, y = trained("GAFFO", 800, ll_lr=0.1, ul_lr=0.2, options=options)
    root = np.linalg.cholesky(e.p.A).T

    def best(x):
        return lsq_linear(root, np.linalg.solve(root.T, e.p.B @ x + e.p.c), box, tol=1e-12).x

    def reduced(x):
        return e.p.upper(best(x), x)

    starts = [x, e.p.x0, np.zeros(DIM_X)]
    optimum = min(minimize(reduced, s, method="Nelder-Mead", options={"maxiter": 4000}).fun for s in starts)
    assert reduced(x) == pytest.approx(optimum, rel=1e-2)
    assert np.abs(y).max() <= 0.6 + 1e-6
    assert (np.abs(best(x)) > 0.6 - 1e-6).any()  # the box matters


@RANKS
def test_pgdo_finds_the_optimum_of_its_value_penalty(rank):
    options = {"y_hat_lr": 0.4, "gamma_init": 1.0, "gamma_max": 20.0, "gamma_argmax_step": 100}
    e, x, y = trained("PGDO", 800, ll_lr=0.02, ul_lr=0.015, lower_iters=20, options=options, rank=rank)
    exact = e.surrogate_optimum(lambda x, y: e.p.upper(y, x) + 20.0 * (e.f(x, y) - e.f(x, e.best(x))))
    np.testing.assert_allclose(x, exact[0], atol=2e-2 * np.linalg.norm(exact[0]))
    np.testing.assert_allclose(y, exact[1], atol=2e-2 * np.linalg.norm(exact[1]))


def test_pgdo_finds_the_optimum_of_its_gradient_penalty():
    options = {"penalty": "gradient", "gamma_init": 4.0, "gamma_max": 4.0}
    e, x, y = trained("PGDO", 1200, ll_lr=0.01, ul_lr=0.03, options=options)
    exact = e.surrogate_optimum(lambda x, y: e.p.upper(y, x) + 4.0 * e.f_y(x, y) @ e.f_y(x, y))
    np.testing.assert_allclose(x, exact[0], atol=1e-2 * np.linalg.norm(exact[0]))
    np.testing.assert_allclose(y, exact[1], atol=1e-2 * np.linalg.norm(exact[1]))


@RANKS
def test_vso_finds_the_optimum_of_its_surrogate(rank):
    reg, slack, tau = 1e-3, 0.2, 0.2
    options = {
        "z_lr": 0.3,
        "reg_decay": 0.0,
        "ll_l2_reg": reg,
        "ul_l2_reg": 0.0,
        "slack": slack,
        "ul_ln_reg": tau,
        "boundary": 0.02,
    }
    if rank == DIM_Y:
        e, x, y = trained("VSO", 300, ll_lr=0.02, ul_lr=0.03, lower_iters=20, options=options)
    else:  # y crosses the flat of minima from z in every outer step
        e, x, y = trained("VSO", 100, ll_lr=0.05, ul_lr=0.1, lower_iters=80, options=options, rank=rank)

    def value(x, y):
        z = np.linalg.solve(e.p.A + reg * np.eye(DIM_Y), e.p.B @ x + e.p.c)
        gap = e.f(x, z) + 0.5 * reg * z @ z + slack - e.f(x, y)
        return e.p.upper(y, x) - tau * np.log(gap) if gap > 0 else 1e6 * (1 - gap)

    best = e.surrogate_optimum(value)
    assert value(x, y) == pytest.approx(value(*best), rel=1e-2)
    assert e.reduced(x) == pytest.approx(e.reduced(e.optimum()), rel=5e-2)


def test_alto_finds_the_point_where_each_level_is_optimal_for_itself():
    e, x, y = trained("ALTO", 300, ll_lr=0.3, ul_lr=0.3)
    np.testing.assert_allclose(y, e.best(x), atol=1e-4)
    np.testing.assert_allclose(e.p.upper_by_x(y, x), 0.0, atol=1e-4)


def test_a_resumed_run_is_bit_identical(tmp_path):
    def build(folder):
        options = {"eta": 0.2}
        saver = ModelCheckpoint(folder, every_n_steps=3)
        return make(
            "MESO",
            tame(),
            ll_optimizer=partial(jt.optim.SGD, lr=0.1, momentum=0.9),
            ul_optimizer=partial(jt.optim.Adam, lr=0.1),
            options=options,
            callbacks=[saver],
        )

    whole = build(tmp_path / "whole")
    whole.fit({}, {}, max_steps=8)
    build(tmp_path / "parts").fit({}, {}, max_steps=4)
    parts = build(tmp_path / "parts")
    parts.fit({}, {}, max_steps=8, resume_from="last")
    np.testing.assert_equal(parts.values(), whole.values())
    assert parts.history["ul_loss"] == whole.history["ul_loss"]
    assert parts.configuration()["fo_op"] == "MESO"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("VFO", {"u1": 0.0}, r"\['VFO'\]\['u1'\] must be positive, got 0\.0"),
        ("MESO", {"gamma_1": -1}, r"\['MESO'\]\['gamma_1'\] must be positive, got -1"),
        ("PGDO", {"penalty": "values"}, r"'value' or 'gradient', got 'values'.*Did you mean 'value'"),
        ("PGDO", {"gamma_init": 5.0, "gamma_max": 1.0}, r"gamma_max'\] must be at least gamma_init, got 1\.0"),
        ("GAFFO", {"eta": 0.0}, r"\['GAFFO'\]\['eta'\] must be positive, got 0\.0"),
        ("GAFFO", {"p": 0.5}, r"'p'\] must lie in \[0, 0\.5\), got 0\.5"),
        ("GAFFO", {"y_min": 1.0, "y_max": 1.0}, r"y_max'\] must be above y_min = 1\.0, got 1\.0"),
        ("VSO", {"z_loop": 0}, r"z_loop'\] must be an integer >= 1, got 0"),
        ("VSO", {"boundary": 0.0}, r"boundary'\] must be positive, got 0\.0"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        make(method, tame(), ll_lr=0.1, ul_lr=0.1, options=options)


@pytest.mark.parametrize("setting", [{"warm_start": False}, {"lower_batches": "fresh"}])
def test_settings_that_first_order_methods_lack(setting):
    ul_model, ll_model = tame().models()
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        BilevelTrainer(
            ll_model,
            ul_model,
            tame().f,
            tame().F,
            ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
            ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.1),
            fo_op="VFO",
            **setting,
        )

"""VSO with y carried over from step to step, as its authors do."""

from jboat.callbacks import ModelCheckpoint
import numpy as np
from problems import DIM_X, DIM_Y, Quadratic
import pytest
from scipy.optimize import minimize
import small_trainers

REG, SLACK, TAU = 1e-3, 0.2, 0.2
OPTIONS = {
    "z_lr": 0.3,
    "reg_decay": 0.0,
    "ll_l2_reg": REG,
    "ul_l2_reg": 0.0,
    "slack": SLACK,
    "ul_ln_reg": TAU,
    "boundary": 0.02,
}


def make(warm_start, *callbacks, rank=DIM_Y, lower_iters=2, **options):
    problem = Quadratic(coupling=0.3, rank=rank)
    problem.rho = 1.0
    section = {**OPTIONS, **options, "warm_start": warm_start}
    trainer = small_trainers.make(
        *callbacks,
        problem=problem,
        ll_lr=0.02,
        ul_lr=0.03,
        fo_op="VSO",
        lower_iters=lower_iters,
        solver_config={"VSO": section},
    )
    return problem, trainer


def exact(problem, warm_start, steps):
    """x and y after some outer steps of two lower steps each, in float64."""

    def f(x, y):
        return 0.5 * y @ problem.A @ y - y @ (problem.B @ x + problem.c)

    def f_y(x, y):
        return problem.A @ y - problem.B @ x - problem.c

    x, y, z = problem.x0, problem.y0, problem.y0
    for step in range(steps):
        for _ in range(3):
            z = z - 0.3 * (f_y(x, z) + 0.1 * z)
        f_val = f(x, z) + 0.05 * z @ z + 20.0
        y = y if warm_start and step else z
        for _ in range(2):
            gap = f_val - f(x, y)
            assert gap > 0.02
            y = y - 0.02 * (problem.upper_by_y(y, x) + TAU / gap * f_y(x, y))
        gap = f_val - f(x, y)
        by_x = problem.upper_by_x(y, x) - TAU / gap * (-problem.B.T @ z + problem.B.T @ y)
        x = x - 0.03 * by_x
    return x, y


@pytest.mark.parametrize("warm_start", [True, False])
def test_two_steps_equal_the_formula(warm_start):
    problem, trainer = make(warm_start, z_loop=3, ll_l2_reg=0.1, slack=20.0)
    trainer.fit({}, {}, max_steps=2)
    x, y = exact(problem, warm_start, 2)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), x, rtol=5e-4, atol=1e-4)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=5e-4, atol=1e-4)
    other = exact(problem, not warm_start, 2)[1]
    assert np.linalg.norm(other - y) > 0.1


def surrogate(problem, x, y):
    z = np.linalg.solve(problem.A + REG * np.eye(DIM_Y), problem.B @ x + problem.c)
    f_of = [0.5 * v @ problem.A @ v - v @ (problem.B @ x + problem.c) for v in (z, y)]
    gap = f_of[0] + 0.5 * REG * z @ z + SLACK - f_of[1]
    return problem.upper(y, x) - TAU * np.log(gap) if gap > 0 else 1e6 * (1 - gap)


def test_two_lower_steps_a_time_then_reach_the_surrogates_optimum():
    best = None
    found = {}
    for warm_start in (True, False):
        problem, trainer = make(warm_start)
        trainer.fit({}, {}, max_steps=400)
        x, y = (v[0].numpy().astype(float) for v in (trainer.ul_var, trainer.ll_var))
        start = np.concatenate([x, y])
        best = minimize(lambda v, p=problem: surrogate(p, v[:DIM_X], v[DIM_X:]), start, method="BFGS").fun
        found[warm_start] = surrogate(problem, x, y) / best - 1
    assert abs(found[True]) < 1e-2
    assert abs(found[False]) > 2 * abs(found[True])


def test_a_resumed_run_is_bit_identical(tmp_path):
    whole = make(True, ModelCheckpoint(tmp_path / "whole", every_n_steps=3))[1]
    whole.fit({}, {}, max_steps=8)
    make(True, ModelCheckpoint(tmp_path / "parts", every_n_steps=3))[1].fit({}, {}, max_steps=4)
    parts = make(True, ModelCheckpoint(tmp_path / "parts", every_n_steps=3))[1]
    parts.fit({}, {}, max_steps=8, resume_from="last")
    np.testing.assert_equal(parts.values(), whole.values())


def test_bad_option():
    with pytest.raises(ValueError, match=r"\['VSO'\]\['warm_start'\] must be True or False, got 1"):
        make(1)

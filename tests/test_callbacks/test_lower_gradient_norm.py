"""The metric lower_gradient_norm against the closed form of the quadratic's lower gradient."""

from functools import partial

from jboat import BilevelTrainer
from jboat.callbacks import HypergradientCheck, LowerGradientNorm
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make

WD = 0.3


def run(callback, steps=1, wd=WD, ll_lr=0.1, **kwargs):
    problem = Quadratic(same_dims="IAD" in kwargs.get("na_op", ()))
    trainer = make(
        *([callback] if callback else []),
        problem=problem,
        ll_optimizer=partial(jt.optim.SGD, lr=ll_lr, weight_decay=wd),
        ul_lr=0.01,
        **{"lower_iters": 3, **kwargs},
    )
    return problem, trainer, trainer.fit({}, {}, max_steps=steps)


CASES = {
    "RAD": {},
    "CG": {"na_op": ["CG"]},
    "PTT": {"na_op": ["PTT", "RAD"]},
    "GDA": {"gm_op": ["GDA", "NGD"]},
    "DI": {"gm_op": ["DI", "NGD"]},
    "DM": {"gm_op": ["DM"]},
    **{name: {"fo_op": name} for name in ("VFO", "MESO", "PGDO", "GAFFO", "ALTO")},
    "VSO": {"fo_op": "VSO", "ll_lr": 0.01, "solver_config": {"VSO": {"boundary": 0.5}}},
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_norm_at_the_y_that_a_step_ends_with(name):
    problem, trainer, history = run(LowerGradientNorm(), **CASES[name])
    y = trainer.ll_var[0].numpy().astype(float)
    exact = np.linalg.norm(problem.phi_by_y(y, problem.x0, 0.0) + WD * y)  # at x before the upper step, without F
    assert history["lower_gradient_norm"] == [pytest.approx(exact, rel=1e-4)]


def test_implicit_maml_has_its_proximal_term():
    problem, trainer, history = run(LowerGradientNorm(), na_op=["IAD", "CG"], solver_config={"IAD": {"proximal": 0.7}})
    y = trainer.ll_var[0].numpy().astype(float)
    gradient = problem.phi_by_y(y, problem.x0, 0.0) + 0.7 * (y - problem.x0) + WD * y
    assert history["lower_gradient_norm"] == [pytest.approx(np.linalg.norm(gradient), rel=1e-4)]


def test_gda_is_seen_to_leave_the_lower_solution():
    plain = run(LowerGradientNorm(), lower_iters=200, ll_lr=0.3)[2]["lower_gradient_norm"][0]
    options = {"GDA": {"alpha_init": 0.5, "alpha_decay": 1.0}}
    mixed = run(LowerGradientNorm(), lower_iters=200, ll_lr=0.3, gm_op=["GDA", "NGD"], solver_config=options)
    assert plain < 1e-4
    assert mixed[2]["lower_gradient_norm"][0] > 0.1


def test_it_is_measured_when_due_and_with_hypergradient_check():
    history = run(LowerGradientNorm(2), steps=5)[2]
    assert [("lower_gradient_norm" in row) for row in history] == [False, True, False, True, False]
    problem, trainer, history = run(HypergradientCheck(1))
    y = trainer.ll_var[0].numpy().astype(float)
    exact = np.linalg.norm(problem.phi_by_y(y, problem.x0, 0.0) + WD * y)
    assert history["lower_gradient_norm"] == [pytest.approx(exact, rel=1e-4)]


@pytest.mark.parametrize("kwargs", [{}, {"fo_op": "VFO"}])
def test_measuring_changes_nothing(kwargs):
    measured, plain = (run(callback, steps=3, **kwargs)[1] for callback in (LowerGradientNorm(), None))
    np.testing.assert_equal(measured.values(), plain.values())


def test_each_lower_batch_of_its_own():
    seen = []

    def f(batch, ul_model, ll_model):
        seen.append(batch["scale"])
        return 0.5 * batch["scale"] * ((ll_model() - ul_model()) ** 2).sum()

    problem = Quadratic(same_dims=True)
    ul_model, ll_model = problem.models()
    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.0),
        lower_iters=2,
        lower_batches="fresh",
        callbacks=[LowerGradientNorm()],
    )
    with np.errstate(all="ignore"):
        history = trainer.fit([{"scale": 1.0}, {"scale": 3.0}], {}, max_steps=1)
    assert seen[-1] == 3.0
    gap = ll_model.value.numpy().astype(float) - problem.x0
    assert history["lower_gradient_norm"] == [pytest.approx(3.0 * np.linalg.norm(gap), rel=1e-4, abs=1e-6)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        LowerGradientNorm(0)

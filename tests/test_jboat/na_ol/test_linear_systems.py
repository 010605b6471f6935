"""Damping, warm start and solvers of CG and NS, and NYS, in chains and in training."""

import logging

from chains import solve
from jboat import BilevelTrainer, autodiff
from jboat.na_ol import implicit
from jboat.trainers.persistence.checkpoint import CheckpointError
import jittor as jt
import numpy as np
from problems import DIM_Y, Point, Quadratic
import pytest
from small_trainers import make

K, LR = 10, 0.1
INDEFINITE = [-0.4, 0.3, 0.5, 0.7, 1.0, 1.2, 1.5, 2.0]
SINGULAR = [0.0, 0.0, 0.5, 0.7, 1.0, 1.2, 1.5, 2.0]


def problem_with(spectrum=None):
    problem = Quadratic()
    if spectrum is not None:
        basis = np.linalg.qr(np.random.default_rng(5).normal(size=(DIM_Y, DIM_Y)))[0]
        problem.A = basis @ np.diag(spectrum) @ basis.T
        problem._vars["A"] = jt.array(problem.A.astype("float32")).sync()
    return problem


def exact(problem, shift):
    y = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))[-1]
    q = np.linalg.solve(problem.A + shift * np.eye(DIM_Y), problem.upper_by_y(y, problem.x0))
    return problem.upper_by_x(y, problem.x0) + problem.B.T @ q


def close(got, answer, limit=3e-4):
    assert np.linalg.norm(got.numpy() - answer) < limit * np.linalg.norm(answer)


@pytest.mark.parametrize("spectrum", [None, INDEFINITE, SINGULAR], ids=["definite", "indefinite", "singular"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CG", {"solver": "cg"}),
        ("CG", {"solver": "minres"}),
        ("CG", {"solver": "normal_cg"}),
        ("NYS", {}),
    ],
    ids=str,
)
def test_a_damped_system_equals_the_dense_solve(name, options, spectrum):
    problem = problem_with(spectrum)
    damping = 0.6 if options.get("solver") == "cg" else 0.1
    section = {"k": 8, "rho": damping} if name == "NYS" else {"k": 40, "damping": damping, **options}
    result = solve(problem, ("NGD",), (name,), lower_iters=K, lr=LR, sections={name: section})
    close(result["hyper_gradient"][0], exact(problem, damping))
    assert result["diagnostics"][f"{name.lower()}_residual"] < 1e-3


def test_minres_solves_an_indefinite_system_without_damping():
    problem = problem_with(INDEFINITE)
    for solver in ("minres", "normal_cg"):
        result = solve(problem, ("NGD",), ("CG",), lower_iters=K, lr=LR, sections={"CG": {"k": 40, "solver": solver}})
        close(result["hyper_gradient"][0], exact(problem, 0.0), 1e-3)


def test_damping_of_ns_is_in_its_series():
    problem, damping, k = problem_with(), 0.5, 7
    y = problem.iterates(problem.x0, problem.y0, K, LR, np.zeros(K))[-1]
    step = np.eye(DIM_Y) - LR * (problem.A + damping * np.eye(DIM_Y))
    q = sum(LR * np.linalg.matrix_power(step, j) @ problem.upper_by_y(y, problem.x0) for j in range(k + 1))
    for section in ("NS", "CG"):
        sections = {section: {"k": k, "tolerance": 0.0, "damping": damping}}
        result = solve(problem, ("NGD",), ("NS",), lower_iters=K, lr=LR, sections=sections)
        close(result["hyper_gradient"][0], problem.upper_by_x(y, problem.x0) + problem.B.T @ q, 1e-5)


def trainer_of(problem, na_op, sections, *, lr=0.02, **kwargs):
    return make(
        problem=problem,
        ll_lr=0.3,
        ul_lr=lr,
        lower_iters=20,
        na_op=na_op,
        solver_config=sections,
        seed=3,
        **kwargs,
    )


class Wide:
    """f = sum_i a_i y_i^2 / 2 - <y, c x>, F = |y - t|^2 / 2 + |x|^2 / 2, with a from 0.02 to 1."""

    def __init__(self, size=60):
        rng = np.random.default_rng(4)
        self.x0, self.y0 = rng.normal(size=1), np.zeros(size)
        self.a, self.c, self.t = np.geomspace(0.02, 1.0, size), rng.normal(size=size), rng.normal(size=size)
        self._vars = [jt.array(v.astype("float32")).sync() for v in (self.a, self.c, self.t)]

    def models(self):
        return Point(self.x0), Point(self.c * self.x0 / self.a)

    def f(self, batch, ul_model, ll_model):
        a, c, _ = self._vars
        y = ll_model()
        return 0.5 * (a * y * y).sum() - (y * c * ul_model()).sum()

    def F(self, batch, ul_model, ll_model):
        gap, x = ll_model() - self._vars[2], ul_model()
        return 0.5 * (gap * gap).sum() + 0.5 * (x * x).sum()


@pytest.mark.parametrize("solver", ["cg", "minres", "normal_cg"])
def test_a_warm_start_halves_the_products_on_a_problem_that_changes_slowly(solver, monkeypatch):
    calls, vjp = [], autodiff.vjp
    monkeypatch.setattr(implicit.autodiff, "vjp", lambda *args: calls.append(1) or vjp(*args))
    taken, ends = {}, {}
    for warm in (False, True):
        section = {"k": 200, "tolerance": 1e-3, "solver": solver, "warm_start": warm}
        trainer = trainer_of(Wide(), ["CG"], {"CG": section}, lr=1e-7)
        trainer.fit({}, {}, max_steps=3, check_second_order=False)
        before = len(calls)
        trainer.fit({}, {}, max_steps=10, check_second_order=False)
        taken[warm] = len(calls) - before - 10  # less the mixed product of every step
        assert sum(trainer.history["cg_iterations"][-10:]) == taken[warm]
        assert max(trainer.history["cg_residual"]) <= 1e-3
        ends[warm] = trainer.ul_var[0].numpy()
    assert taken[True] <= taken[False] / 2
    np.testing.assert_allclose(ends[True], ends[False], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("na_op", "section"),
    [
        (["CG"], {"CG": {"k": 3, "warm_start": True}}),
        (["PTT", "CG"], {"CG": {"k": 2, "warm_start": True, "solver": "minres", "damping": 0.1}}),
        (["NS"], {"NS": {"k": 3, "warm_start": True}}),
        (["NYS"], {"NYS": {"k": 3, "rho": 0.5}}),
    ],
    ids=str,
)
def test_a_resumed_run_is_bit_identical(na_op, section, tmp_path):
    def values(trainer):
        kept = [v.numpy() for vs in trainer.auxiliary.values() for v in vs]
        return [*(v.numpy() for v in (*trainer.ll_var, *trainer.ul_var)), *kept]

    straight = trainer_of(problem_with(), na_op, section)
    straight.fit({}, {}, max_steps=4)
    stopped = trainer_of(problem_with(), na_op, section)
    stopped.fit({}, {}, max_steps=2)
    stopped.save_checkpoint(tmp_path / "two.npz")
    resumed = trainer_of(problem_with(), na_op, section)
    resumed.fit({}, {}, max_steps=4, resume_from=tmp_path / "two.npz")
    assert set(resumed.auxiliary) == ({"linear_solution"} if "NYS" not in na_op else set())
    for a, b in zip(values(straight), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_kept_solution_is_what_a_warm_start_begins_with():
    problem = problem_with()
    trainer = trainer_of(problem, ["CG"], {"CG": {"k": 40, "warm_start": True}}, lr=0.0, warm_start=False)
    trainer.fit({}, {}, max_steps=2)
    first, second = trainer.history["cg_iterations"]
    assert second <= 3 < first
    q = trainer.auxiliary["linear_solution"][0].numpy()
    y = trainer.ll_var[0].numpy().astype(np.float64)
    np.testing.assert_allclose(problem.A @ q, problem.upper_by_y(y, problem.x0), rtol=1e-4, atol=1e-5)


def test_nys_draws_other_columns_in_every_step_and_the_same_in_every_run():
    problem = problem_with()
    ends = []
    for seed in (0, 0, 1):
        trainer = trainer_of(problem, ["NYS"], {"NYS": {"k": 2, "rho": 0.5, "seed": seed}}, lr=0.0, warm_start=False)
        trainer.fit({}, {}, max_steps=2)
        ends.append(trainer.history["hypergradient_norm"])
    assert ends[0] == ends[1] != ends[2]
    assert ends[0][0] != ends[0][1]


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_one_warning_a_run_where_k_iterations_do_not_reach_the_tolerance(caplog):
    trainer = trainer_of(problem_with(), ["CG"], {"CG": {"k": 2}})
    with caplog.at_level(logging.WARNING, logger="jboat"):
        trainer.fit({}, {}, max_steps=3)
    (message,) = messages(caplog)
    assert message.startswith("CG: the relative residual of the linear system is ")
    assert "after k = 2 iterations, above the tolerance 1e-06" in message
    caplog.clear()
    for section in ({"k": 2, "tolerance": 0.0}, {"k": 40, "tolerance": 1e-4}, {"k": 1, "tolerance": 0.9}):
        trainer = trainer_of(problem_with(), ["CG"], {"CG": section})
        with caplog.at_level(logging.WARNING, logger="jboat"):
            trainer.fit({}, {}, max_steps=2)
    assert messages(caplog) == []


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("CG", {"k": 40}),
        ("CG", {"k": 40, "solver": "minres", "tolerance": 1e-3}),
        ("CG", {"k": 80, "solver": "normal_cg", "tolerance": 1e-3}),
        ("NYS", {"k": 8, "rho": 0.1}),
    ],
    ids=str,
)
def test_negative_curvature_is_named_once_a_run(name, section, caplog):
    trainer = trainer_of(problem_with(INDEFINITE), [name], {name: section}, lr=1e-4)
    with caplog.at_level(logging.WARNING, logger="jboat"):
        trainer.fit({}, {}, max_steps=3)
    (message,) = [m for m in messages(caplog) if "negative curvature" in m]
    assert message.startswith(f"{name}: ")
    assert "damping above 0." in message or "damping above 0.4" in message


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"CG": {"damping": -1.0}}, "damping of CG and NS must be a finite number >= 0, got -1.0"),
        ({"CG": {"damping": float("nan")}}, "damping of CG and NS must be a finite number >= 0"),
        ({"CG": {"damping": float("inf")}}, "damping of CG and NS must be a finite number >= 0"),
        ({"CG": {"warm_start": "yes"}}, "warm_start of CG and NS must be true or false, got 'yes'"),
        ({"CG": {"solver": "minre"}}, "solver of CG must be one of 'cg', 'minres', 'normal_cg', got 'minre'"),
        ({"NS": {"solver": "minres"}}, r"solver_config\['NS'\] has no key 'solver'"),
        ({"NYS": {"rho": 0.0}}, "rho of NYS must be a positive finite number, got 0.0"),
        ({"NYS": {"k": 0}}, "k of NYS must be an integer >= 1, got 0"),
        ({"NYS": {"seed": -1}}, "seed of NYS must be an integer >= 0, got -1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(section, said):
    with pytest.raises(ValueError, match=said):
        trainer_of(problem_with(), ["CG"], section)


def test_an_option_of_cg_that_ns_has_not_is_named():
    with pytest.raises(ValueError, match=r"solver_config\['CG'\] holds the options of NS, too, which has no 'solver'"):
        trainer_of(problem_with(), ["NS"], {"CG": {"solver": "minres"}})


@pytest.mark.parametrize("option", [{"damping": 0.1}, {"warm_start": True}, {"solver": "minres"}], ids=str)
def test_a_multiplier_step_solves_no_linear_system(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} of CG means nothing beside DM"):
        trainer_of(problem_with(), ["CG"], {"CG": option}, gm_op=["DM"])


def test_a_checkpoint_with_another_kept_list_is_refused(tmp_path):
    warm = trainer_of(problem_with(), ["CG"], {"CG": {"warm_start": True}})
    warm.fit({}, {}, max_steps=1)
    warm.save_checkpoint(tmp_path / "warm.npz")
    cold = trainer_of(problem_with(), ["CG"], {})
    with pytest.raises(CheckpointError, match="warm_start"):
        cold.load_checkpoint(tmp_path / "warm.npz")


def test_implicit_maml_by_nys():
    problem = Quadratic(same_dims=True)
    sections = {"IAD": {"proximal": 0.7}, "NYS": {"k": 8, "rho": 0.2}}
    answer = problem.reference(("IAD", "NYS"), K=K, lr=LR, lam=0.7, rho=0.2)[0]
    close(
        solve(problem, ("NGD",), ("IAD", "NYS"), lower_iters=K, lr=LR, sections=sections)["hyper_gradient"][0], answer
    )


def test_a_model_with_layers_and_more_columns_than_parameters():
    ul_model, ll_model = Point([0.5]), Point([0.0, 0.0])

    def f(batch, ul, ll):
        return 0.5 * ((ll() - ul()) ** 2).sum()

    def F(batch, ul, ll):
        return 0.5 * (ll() ** 2).sum()

    trainer = BilevelTrainer(
        ll_model,
        ul_model,
        f,
        F,
        ll_optimizer=jt.optim.SGD(ll_model.parameters(), 0.5),
        ul_optimizer=jt.optim.SGD(ul_model.parameters(), 0.1),
        lower_iters=40,
        na_op=["NYS"],
        solver_config={"NYS": {"k": 50, "rho": 1e-3}},
    )
    np.testing.assert_allclose(trainer.hypergradient({}, {}).gradients[0].numpy(), 1.0 / 1.001, rtol=1e-4)

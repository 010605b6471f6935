"""``through_optimizer``: the last step of the lower optimizer itself, in FD, CG, NS and NYS."""

import gc
import logging

from chains import solve
from jboat import BilevelTrainer
from jboat.trainers.outer_step.method import Events
import jittor as jt
import numpy as np
from numpy_optimizers import CASES
from problems import DIM_Y, Classifier, Quadratic
import pytest

K = 5
ENTRYWISE = [name for name in CASES if name != "adan clipped"]
PROBLEM = Quadratic()


def made(name):
    cls, reference, hyper = CASES[name]
    return (lambda params: cls(params, **hyper)), lambda p, g, s, n: reference(p, g, s, n, **hyper)


def before_the_last_step(update):
    """y_{K-1} and the state there, at x = x_0."""
    y, state = PROBLEM.y0, {}
    for n in range(1, K):
        y, state = update(y, PROBLEM.phi_by_y(y, PROBLEM.x0, 0.0), state, n)
    return y, state


def close(result, exact, limit=1e-3):
    got = result["hyper_gradient"][0].numpy()
    assert np.linalg.norm(got - exact) < limit * np.linalg.norm(exact)


@pytest.mark.parametrize("name", CASES)
def test_fd_is_the_derivative_of_the_last_step(name):
    """Against finite differences in float64, y_{K-1} and the optimizer's state held."""
    make, update = made(name)
    y, state = before_the_last_step(update)

    def value(x):
        return PROBLEM.upper(update(y, PROBLEM.phi_by_y(y, x, 0.0), state, K)[0], x)

    x, eps = PROBLEM.x0, 1e-6
    exact = [(value(x + eps * e) - value(x - eps * e)) / (2 * eps) for e in np.eye(len(x))]
    sections = {"FD": {"through_optimizer": True}}
    close(solve(PROBLEM, ("NGD",), ("FD",), lower_iters=K, lr=0.1, sections=sections, optimizer=make), exact)


@pytest.mark.parametrize("hidden", [0, 5], ids=["logistic", "mlp"])
@pytest.mark.parametrize("name", CASES)
def test_fd_equals_rgt_that_tracks_the_last_step(name, hidden):
    problem = Classifier(hidden=hidden)
    run = {"lower_iters": K, "lr": 0.1, "batches": problem.batches(), "optimizer": made(name)[0]}
    exact = solve(problem, ("NGD",), ("RGT", "RAD"), sections={"RGT": {"truncate_iter": K - 1}}, **run)
    through = solve(problem, ("NGD",), ("FD",), sections={"FD": {"through_optimizer": True}}, **run)
    close(through, exact["hyper_gradient"][0].numpy())


def test_fd_after_ptt_goes_through_the_step_to_the_worst_iterate():
    make = made("adam")[0]
    run = {"lower_iters": K, "lr": 0.1, "optimizer": make, "index": 3}
    exact = solve(PROBLEM, ("NGD",), ("PTT", "RGT", "RAD"), sections={"RGT": {"truncate_iter": 2}}, **run)
    through = solve(PROBLEM, ("NGD",), ("PTT", "FD"), sections={"FD": {"through_optimizer": True}}, **run)
    close(through, exact["hyper_gradient"][0].numpy())


def fixed_point(name):
    """H, the Jacobians of the last step by y and g, b, and what is outside the implicit part, in float64."""
    _, update = made(name)
    y, state = before_the_last_step(update)
    g, eps = PROBLEM.phi_by_y(y, PROBLEM.x0, 0.0), 1e-6

    def column(e, f):
        return (update(y + e, g + f, state, K)[0] - update(y - e, g - f, state, K)[0]) / (2 * eps)

    J = np.stack([column(eps * e, 0.0) for e in np.eye(DIM_Y)], axis=1)
    G = np.stack([column(0.0, eps * e) for e in np.eye(DIM_Y)], axis=1)
    y = update(y, g, state, K)[0]
    return PROBLEM.A, J, G, PROBLEM.upper_by_y(y, PROBLEM.x0), PROBLEM.upper_by_x(y, PROBLEM.x0)


def chain(name, optimizer, **section):
    sections = {name: {"through_optimizer": True, **section}}
    return solve(PROBLEM, ("NGD",), (name,), lower_iters=K, lr=0.1, sections=sections, optimizer=made(optimizer)[0])


@pytest.mark.parametrize("name", CASES)
def test_ns_is_the_series_of_the_optimizers_own_step(name):
    H, J, G, b, by_x = fixed_point(name)
    u = sum(np.linalg.matrix_power((J + G @ H).T, j) @ b for j in range(7))
    close(chain("NS", name, k=6, tolerance=0.0), by_x - PROBLEM.B.T @ (G.T @ u))


@pytest.mark.parametrize("name", ENTRYWISE)
@pytest.mark.parametrize("solver", ["minres", "normal_cg"])
def test_cg_solves_for_the_optimizers_own_fixed_point(name, solver):
    H, J, G, b, by_x = fixed_point(name)
    u = np.linalg.solve((np.eye(DIM_Y) - J - G @ H).T, b)
    result = chain("CG", name, k=200, tolerance=1e-6, solver=solver)
    close(result, by_x - PROBLEM.B.T @ (G.T @ u), 3e-3)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_nys_solves_for_the_optimizers_own_fixed_point(name):
    H, J, G, b, by_x = fixed_point(name)
    rho = 0.05
    u = np.linalg.solve((np.eye(DIM_Y) - J - G @ (H + rho * np.eye(DIM_Y))).T, b)
    close(chain("NYS", name, k=DIM_Y, rho=rho), by_x - PROBLEM.B.T @ (G.T @ u), 3e-3)


@pytest.mark.parametrize("name", ["CG", "NS"])
def test_plain_gradient_descent_changes_nothing(name):
    through = chain(name, "sgd", k=4, damping=0.1)
    plain = solve(PROBLEM, ("NGD",), (name,), lower_iters=K, lr=0.1, sections={name: {"k": 4, "damping": 0.1}})
    close(through, plain["hyper_gradient"][0].numpy(), 1e-4)


@pytest.mark.parametrize("name", ["CG", "NYS"])
def test_a_step_that_mixes_entries_is_refused(name):
    with pytest.raises(
        ValueError, match=f"{name}: through_optimizer takes the lower step entry by entry.*outer step 1"
    ):
        chain(name, "adan clipped")


def trainer_of(make, na_op, sections, lower_iters=K):
    ul_model, ll_model = PROBLEM.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        PROBLEM.f,
        PROBLEM.F,
        ll_optimizer=make(list(ll_model.parameters())),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.01),
        lower_iters=lower_iters,
        na_op=na_op,
        solver_config=sections,
    )


@pytest.mark.parametrize("name", ["FD", "CG", "NS", "NYS"])
def test_the_warning_of_decoupled_decay_is_for_those_that_do_not_see_it(name, caplog):
    for through in (False, True):
        caplog.clear()
        trainer = trainer_of(made("adamw")[0], [name], {name: {"through_optimizer": through}})
        with caplog.at_level(logging.WARNING, logger="jboat"):
            trainer.fit({}, {}, max_steps=1)
        told = any("is decoupled" in r.getMessage() for r in caplog.records)
        assert told == (not through)


def test_no_graph_of_a_lower_step_is_kept():
    def live(lower_iters, na_op=("FD",)):
        trainer = trainer_of(made("adam")[0], na_op, {"FD": {"through_optimizer": True}}, lower_iters)
        most = 0

        def look(step, trajectory):
            nonlocal most
            gc.collect()
            most = max(most, jt.number_of_lived_ops())

        run = trainer.current_run
        run.problem.begin_step()
        run.step([({}, {})], Events(on_lower_step=look))
        return most

    gc.collect()
    gc.freeze()  # what other tests have left is not looked through at every step
    try:
        live(2)
        graph = live(20, ("RAD",)) - live(4, ("RAD",))
        assert live(20) - live(4) < graph / 4  # the iterates and the optimizer's state alone
    finally:
        gc.unfreeze()


def test_an_optimizer_without_a_rule_is_named():
    class Own(jt.optim.Optimizer):
        pass

    with pytest.raises(TypeError, match="no differentiable rule for optimizer Own; supported are Adam, AdamW"):
        trainer_of(lambda params: Own(params, 0.1), ["FD"], {"FD": {"through_optimizer": True}})


@pytest.mark.parametrize("name", ["FD", "CG", "NS", "NYS"])
def test_the_option_is_true_or_false(name):
    with pytest.raises(ValueError, match=f"through_optimizer of .*{name}.* must be true or false, got 1"):
        trainer_of(made("adam")[0], [name], {name: {"through_optimizer": 1}})


def test_beside_a_multiplier_step_it_means_nothing():
    ul_model, ll_model = PROBLEM.models()
    with pytest.raises(ValueError, match="through_optimizer of CG means nothing beside DM"):
        BilevelTrainer(
            ll_model,
            ul_model,
            PROBLEM.f,
            PROBLEM.F,
            ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), 0.1),
            ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), 0.01),
            gm_op=["DM"],
            na_op=["CG"],
            solver_config={"CG": {"through_optimizer": True}},
        )

"""The lower optimizer's weight decay, by parameter group, in everything that differentiates a lower solution.

y is held in two variables, each in a group with a learning rate and a weight decay of its own. Lower steps are
``y -= S (grad_y phi + W y)`` with S and W diagonal, and lead where the gradient of ``phi + y'Wy / 2`` vanishes.
"""

import logging

from chains import solve
import jittor as jt
import numpy as np
from problems import DIM_Y, Quadratic
import pytest
from small_trainers import make

HEAD = 3
RATES, DECAYS = (0.1, 0.06), (0.9, 0.25)
S = np.diag([RATES[0]] * HEAD + [RATES[1]] * (DIM_Y - HEAD))
W = np.diag([DECAYS[0]] * HEAD + [DECAYS[1]] * (DIM_Y - HEAD))
EYE = np.eye(DIM_Y)
K = 5


class Halves(jt.Module):
    def __init__(self, value):
        self.head = jt.array(value[:HEAD].astype("float32"))
        self.tail = jt.array(value[HEAD:].astype("float32"))

    def execute(self):
        return jt.concat([self.head, self.tail])


class Split(Quadratic):
    """The quadratic with its vectors in two parts."""

    def models(self):
        ul_model, _ = super().models()
        return Halves(self.x0) if len(self.x0) == DIM_Y else ul_model, Halves(self.y0)


def groups(optimizer=jt.optim.SGD, **kwargs):
    def make(variables):
        parts = zip(variables, RATES, DECAYS, strict=True)
        return optimizer([{"params": [v], "lr": s, "weight_decay": wd} for v, s, wd in parts], 1.0, **kwargs)

    return make


def joined(variables):
    return np.concatenate([v.numpy() for v in variables]).astype(float)


def iterates(problem, alphas, y, lam=0.0):
    start, x = y, problem.x0
    for alpha in alphas:
        y = y - S @ (problem.phi_by_y(y, x, alpha) + lam * (y - start) + W @ y)
    return y


SECTIONS = {
    "CG": {"k": 40, "tolerance": 1e-7},
    "NS": {"k": 6, "tolerance": 0.0},
    "FD": {"r": 0.1},
    "GDA": {"alpha_init": 0.4, "alpha_decay": 0.9},
    "IAD": {"proximal": 0.7},
}


@pytest.mark.parametrize("gm", [("NGD",), ("GDA", "NGD")], ids="+".join)
@pytest.mark.parametrize("na", [("CG",), ("NS",), ("IGA",), ("FD",), ("IAD", "CG"), ("IAD", "NS")], ids="+".join)
def test_implicit_operators_differentiate_the_solution_with_weight_decay(gm, na):
    problem = Split(same_dims="IAD" in na)
    alphas = 0.4 * 0.9 ** np.arange(K) if "GDA" in gm else np.zeros(K)
    lam = 0.7 if "IAD" in na else 0.0
    x = problem.x0
    y = iterates(problem, alphas, x if "IAD" in na else problem.y0, lam)
    H, G, _ = problem.phi(alphas[-1], lam)
    H = H + W
    Fx, Fy = problem.upper_by_x(y, x), problem.upper_by_y(y, x)
    series = sum(np.linalg.matrix_power(EYE - S @ H, j) for j in range(7)) @ S @ Fy
    p = problem.phi_by_y(y, x, alphas[-1]) + W @ y
    exact = {
        ("CG",): Fx + G.T @ np.linalg.solve(H, Fy),
        ("NS",): Fx + G.T @ series,
        ("IGA",): Fx - (Fy @ p) / (p @ p) * problem.phi_by_x(y, x, alphas[-1]),
        ("FD",): Fx + G.T @ S @ Fy,
        ("IAD", "CG"): 0.7 * np.linalg.solve(H, Fy),
        ("IAD", "NS"): 0.7 * series,
    }[na]
    result = solve(problem, gm, na, lower_iters=K, lr=None, sections=SECTIONS, optimizer=groups())
    np.testing.assert_allclose(joined(result["trajectory"].parameters()), y, rtol=1e-4, atol=1e-5)
    got = joined(result["hyper_gradient"])
    assert np.linalg.norm(got - exact) < (2e-4 if "FD" in na else 1e-4) * np.linalg.norm(exact)


def test_adam_couples_its_weight_decay_too():
    problem, adam = Split(), groups(jt.optim.Adam)
    result = solve(problem, ("NGD",), ("CG",), lower_iters=K, lr=None, sections=SECTIONS, optimizer=adam)
    y, x = joined(result["trajectory"].parameters()), problem.x0
    q = np.linalg.solve(problem.A + W, problem.upper_by_y(y, x))
    exact = problem.upper_by_x(y, x) + problem.B.T @ q
    np.testing.assert_allclose(joined(result["hyper_gradient"]), exact, rtol=1e-4, atol=1e-5)


def test_at_the_solution_cg_equals_the_unrolled_derivative():
    problem = Split()
    long = dict(lower_iters=400, lr=None, sections={"CG": {"k": 40, "tolerance": 1e-7}}, optimizer=groups())
    unrolled, implicit = (solve(problem, ("NGD",), (na,), **long)["hyper_gradient"] for na in ("RAD", "CG"))
    y = np.linalg.solve(problem.A + W, problem.B @ problem.x0 + problem.c)
    through = problem.B.T @ np.linalg.solve(problem.A + W, problem.upper_by_y(y, problem.x0))
    exact = problem.upper_by_x(y, problem.x0) + through
    np.testing.assert_allclose(joined(unrolled), exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(joined(implicit), exact, rtol=1e-4, atol=1e-5)


def trainer(problem, optimizer=jt.optim.SGD, **kwargs):
    return make(problem=problem, ll_optimizer=groups(optimizer), ul_lr=0.4, **{"lower_iters": 10, **kwargs})


@pytest.mark.parametrize("na_op", ["RAD", "CG"])
@pytest.mark.parametrize("gm_op", [("DM",), ("GDA", "DM")], ids="+".join)
def test_the_dual_multiplier_method(gm_op, na_op):
    problem = Split()
    run = trainer(problem, gm_op=gm_op, na_op=[na_op], solver_config={"DM": {"tau": 0.0, "p": 2.0, "mu0": 0.6}})
    run.fit({}, {}, max_steps=3)
    x, y, v = problem.x0, problem.y0, np.zeros(DIM_Y)
    for k in range(3):
        mu = 0.6 * (k + 1) ** -0.5 if "GDA" in gm_op else 0.0
        H, G, _ = problem.phi(mu)
        H = H + W
        residual = H @ v - problem.upper_by_y(y, x)
        step = mu**2 * S if "GDA" in gm_op else S
        if na_op == "CG":
            step = residual @ residual / (residual @ H @ residual) * EYE
        dx = problem.upper_by_x(y, x) + G.T @ v
        rate = mu**7 * RATES[0] if "GDA" in gm_op else 0.4 * RATES[0]
        x, y, v = x - rate * dx, y - S @ (problem.phi_by_y(y, x, mu) + W @ y), v - step @ residual
    np.testing.assert_allclose(run.ul_var[0].numpy(), x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(joined(run.ll_var), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(joined(run.auxiliary["multiplier"]), v, rtol=1e-3, atol=1e-5)


class Lower:
    """phi = f + y'Wy / 2 of the quadratic."""

    def __init__(self, problem):
        self.p, self.x = problem, problem.x0

    def value(self, y):
        return 0.5 * y @ self.p.A @ y - y @ (self.p.B @ self.x + self.p.c) + 0.5 * y @ W @ y

    def by_y(self, y):
        return (self.p.A + W) @ y - self.p.B @ self.x - self.p.c

    def by_x(self, y):
        return -self.p.B.T @ y

    def hat(self, y):
        for _ in range(K):
            y = y - 0.2 * self.by_y(y)
        return y


def vfo(phi, y, Fx, Fy):
    hat = phi.hat(y)
    q = phi.value(y) - phi.value(hat)
    by_x, by_y = phi.by_x(y) - phi.by_x(hat), phi.by_y(y)
    inner, squares = Fx @ by_x + Fy @ by_y, by_x @ by_x + by_y @ by_y
    weight = max(0.0, (0.7 * q - inner) / (squares + 1e-8))
    return Fx + weight * by_x, y - S @ (Fy + weight * by_y)


def meso(phi, y, Fx, Fy):
    theta = y - 0.2 * phi.by_y(y)
    y_new = y - S @ (Fy / 3 + phi.by_y(y) - 0.5 * (y - theta))
    return phi.p.upper_by_x(y_new, phi.x) / 3 + phi.by_x(y_new) - phi.by_x(theta), y_new


def gaffo(phi, y, Fx, Fy):
    theta = y - 0.2 * phi.by_y(y)
    return Fx / 3 + phi.by_x(y) - phi.by_x(theta), y - S @ (Fy / 3 + phi.by_y(y) - 0.5 * (y - theta))


def pgdo(phi, y, Fx, Fy):
    return Fx + 2 * (phi.by_x(y) - phi.by_x(phi.hat(y))), y - S @ (Fy + 2 * phi.by_y(y))


def pgdo_gradient(phi, y, Fx, Fy):
    g = phi.by_y(y)
    return Fx - 4 * phi.p.B.T @ g, y - S @ (Fy + 4 * (phi.p.A + W) @ g)


def alto(phi, y, Fx, Fy):
    y_new = y - S @ phi.by_y(y)
    return phi.p.upper_by_x(y_new, phi.x), y_new


def vso(phi, y, Fx, Fy):
    z = y
    for _ in range(3):
        z = z - 0.1 * (phi.by_y(z) + 0.1 * z)
    f_val, y = phi.value(z) + 0.05 * z @ z + 2.0, z
    for _ in range(K):
        gap = f_val - phi.value(y)
        assert gap > 0.5
        y = y - S @ (phi.p.upper_by_y(y, phi.x) + 0.5 / gap * phi.by_y(y))
    gap = f_val - phi.value(y)
    return phi.p.upper_by_x(y, phi.x) - 0.5 / gap * (phi.by_x(z) - phi.by_x(y)), y


METHODS = {
    "VFO": ("VFO", {"y_hat_lr": 0.2, "u1": 0.7}, vfo),
    "MESO": ("MESO", {"eta": 0.2, "gamma_1": 0.5, "c0": 3.0}, meso),
    "GAFFO": ("GAFFO", {"eta": 0.2, "gamma": 2.0, "c0": 3.0}, gaffo),
    "PGDO": ("PGDO", {"y_hat_lr": 0.2, "gamma_init": 2.0}, pgdo),
    "PGDO gradient": ("PGDO", {"penalty": "gradient", "gamma_init": 2.0}, pgdo_gradient),
    "ALTO": ("ALTO", {}, alto),
    "VSO": (
        "VSO",
        {"z_loop": 3, "ll_l2_reg": 0.1, "ul_l2_reg": 0.0, "ul_ln_reg": 0.5, "slack": 2.0, "boundary": 0.1},
        vso,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_first_order_methods_count_weight_decay_to_the_lower_problem_once(name):
    method, options, exact = METHODS[name]
    problem = Split(coupling=0.3)
    config = {method: options} if options else None
    result = trainer(problem, fo_op=method, lower_iters=K, solver_config=config).hypergradient({}, {})
    x, y = problem.x0, problem.y0
    by_x, y_new = exact(Lower(problem), y, problem.upper_by_x(y, x), problem.upper_by_y(y, x))
    np.testing.assert_allclose(result.gradients[0].numpy(), by_x, rtol=3e-4, atol=3e-5)
    np.testing.assert_allclose(joined(result.ll_parameters), y_new, rtol=3e-4, atol=3e-5)
    at = y_new if name == "VSO" else y
    reported = Lower(problem).value(at) - 0.5 * at @ W @ at
    np.testing.assert_allclose(result.lower_loss, reported, rtol=1e-4)


def decoupled(caplog, optimizer, **kwargs):
    with caplog.at_level(logging.WARNING, logger="jboat"):
        run = trainer(Split(), optimizer, **kwargs)
        run.fit({}, {}, max_steps=2)
    return [record.getMessage() for record in caplog.records if "decoupled" in record.getMessage()]


@pytest.mark.parametrize("optimizer", [jt.optim.AdamW, jt.optim.Adan])
@pytest.mark.parametrize(
    ("who", "kwargs"),
    [
        ("CG", {"na_op": ["CG"]}),
        ("NS", {"na_op": ["NS"]}),
        ("IGA", {"na_op": ["IGA"]}),
        ("DM", {"gm_op": ["DM"]}),
        ("PGDO", {"fo_op": "PGDO"}),
    ],
)
def test_decoupled_weight_decay_is_named_once(caplog, optimizer, who, kwargs):
    (message,) = decoupled(caplog, optimizer, **kwargs)
    assert message.startswith(who)
    assert f"weight decay 0.9 of {optimizer.__name__} is decoupled" in message


@pytest.mark.parametrize("kwargs", [{"na_op": ["RAD"]}, {"fo_op": "ALTO"}])
def test_where_no_lower_solution_is_differentiated_nothing_is_said(caplog, kwargs):
    assert decoupled(caplog, jt.optim.AdamW, **kwargs) == []

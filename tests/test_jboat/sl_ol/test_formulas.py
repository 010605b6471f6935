"""Every single-loop method, step by step, beside its formula in numpy float64 on the same batches."""

from jboat import BilevelTrainer
import jittor as jt
import numpy as np
from problems import NoisyQuadratic
import pytest

LL_LR, UL_LR, V_LR, STEPS, K = 0.2, 0.1, 0.15, 9, 3


def make(problem, method, options=None, *, lower=jt.optim.SGD, upper=jt.optim.SGD, callbacks=(), seed=None, **ll):
    ul_model, ll_model = problem.models()
    return BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=lower(list(ll_model.parameters()), LL_LR, **ll),
        ul_optimizer=upper(list(ul_model.parameters()), UL_LR),
        sl_op=method,
        lower_iters=K,
        solver_config={method: {"v_lr": V_LR, **(options or {})}},
        callbacks=callbacks,
        seed=seed,
    )


class Batches:
    """The places of batches as the loaders give them: in order, again and again."""

    def __init__(self, problem):
        self.counts = len(problem.of_lower["A"]), len(problem.of_upper["t"])
        self.lower = self.upper = 0

    def next_lower(self):
        self.lower += 1
        return (self.lower - 1) % self.counts[0]

    def next_upper(self):
        self.upper += 1
        return (self.upper - 1) % self.counts[1]


def single_steps(problem, estimate, steps=STEPS, v_lr=V_LR, decay=0.0):
    """x and y after each step of the methods that move y, v and x at once; ``estimate(k, z, i, j)``."""
    x, y, v, order, path = problem.x0, problem.y0, np.zeros_like(problem.y0), Batches(problem), []
    for k in range(steps):
        d_y, d_v, d_x = estimate(k, (x, y, v), order.next_lower(), order.next_upper())
        x, y, v = x - UL_LR * d_x, y - LL_LR * d_y, v - v_lr * d_v
        path.append((x, y))
    return path


def soba(problem):
    return single_steps(problem, lambda k, z, i, j: problem.directions(*z, i, j))


def masoba(problem, theta=0.3):
    h = None

    def estimate(k, z, i, j):
        nonlocal h
        d_y, d_v, d_x = problem.directions(*z, i, j)
        h = d_x if h is None else (1 - theta) * h + theta * d_x
        return d_y, d_v, h

    return single_steps(problem, estimate)


def saba(problem):
    tables, sizes = [{}, {}], (len(problem.of_lower["A"]), len(problem.of_upper["t"]))

    def estimate(k, z, i, j):
        terms = problem.terms(*z, i, j)
        found = []
        for table, place, size, now in zip(tables, (i, j), sizes, (terms[:3], terms[3:]), strict=True):
            before = table.get(place, [0.0 * term for term in now])
            mean = [sum(column) / size for column in zip(*table.values(), strict=True)] or [0.0 for _ in now]
            found += [g - old + m for g, old, m in zip(now, before, mean, strict=True)]
            table[place] = now
        by_y, hessian_v, mixed_v, upper_by_y, upper_by_x = found
        return by_y, hessian_v - upper_by_y, upper_by_x - mixed_v

    return single_steps(problem, estimate)


def srba(problem, period=4):
    last = []

    def estimate(k, z, i, j):
        if k % period == 0:
            d = problem.directions(*z)
        else:
            d, z_before = last
            now, before = problem.directions(*z, i, j), problem.directions(*z_before, i, j)
            d = [a + b - c for a, b, c in zip(d, now, before, strict=True)]
        last[:] = d, z
        return d

    # a step that takes all batches leaves the loaders where they were in their order
    class Order(Batches):
        k = -1

        def next_lower(self):
            self.k += 1
            return super().next_lower() if self.k % period else self.lower % self.counts[0]

        def next_upper(self):
            return super().next_upper() if self.k % period else self.upper % self.counts[1]

    x, y, v, order, path = problem.x0, problem.y0, np.zeros_like(problem.y0), Order(problem), []
    for k in range(STEPS):
        d_y, d_v, d_x = estimate(k, (x, y, v), order.next_lower(), order.next_upper())
        x, y, v = x - UL_LR * d_x, y - LL_LR * d_y, v - V_LR * d_v
        path.append((x, y))
    return path


def storm(problem, etas):
    last = []

    def estimate(k, z, i, j):
        d = problem.directions(*z, i, j)
        if last:
            old, z_before = last
            before = problem.directions(*z_before, i, j)
            d = [g + (1 - eta) * (a - b) for g, a, b, eta in zip(d, old, before, etas, strict=True)]
        last[:] = d, z
        return d

    return single_steps(problem, estimate)


def mrbo(problem):
    return storm(problem, (0.3, 0.3, 0.3))


def sustain(problem):
    return storm(problem, (0.3, 1.0, 0.6))


def with_lower_steps(problem, solve, solver_steps):
    x, y, v, order, path = problem.x0, problem.y0, np.zeros_like(problem.y0), Batches(problem), []
    for _ in range(STEPS):
        for _ in range(K):
            y = y - LL_LR * problem.terms(x, y, v, order.next_lower())[0]
        j = order.next_upper()
        upper_by_y, upper_by_x = problem.terms(x, y, v, None, j)[3:]
        hessians = [problem.of_lower["A"][order.next_lower()].astype(float) for _ in range(solver_steps)]
        v = solve(v, upper_by_y, hessians)
        x = x - UL_LR * (upper_by_x - problem.terms(x, y, v, order.next_lower())[2])
        path.append((x, y))
    return path


def stocbio(problem):
    def solve(v, g, hessians):
        total = term = g
        for H in hessians:
            term = term - V_LR * H @ term
            total = total + term
        return V_LR * total

    return with_lower_steps(problem, solve, 5)


def amigo(problem):
    def solve(v, g, hessians):
        for H in hessians:
            v = v - V_LR * (H @ v - g)
        return v

    return with_lower_steps(problem, solve, 4)


def f2sa(problem):
    x, y, z, order, path = problem.x0, problem.y0, problem.y0, Batches(problem), []
    for k in range(STEPS):
        i, j = order.next_lower(), order.next_upper()
        weight = min(6.0, 3.0 * (k + 1) ** 0.5)
        by_y, _, at_y, _, _ = problem.terms(x, y, y, i, j)
        by_z, _, at_z, upper_by_z, upper_by_x = problem.terms(x, z, z, i, j)
        # grad_x f(y) is -B'y, which terms() gives as the mixed product with v = y
        x, y, z = (
            x - UL_LR * (upper_by_x + weight * (at_z - at_y)),
            y - LL_LR * by_y,
            z - V_LR * (by_z + upper_by_z / weight),
        )
        path.append((x, y))
    return path


FORMULAS = {
    "SOBA": (soba, {}),
    "MASOBA": (masoba, {"theta": 0.3}),
    "SABA": (saba, {}),
    "SRBA": (srba, {"period": 4}),
    "MRBO": (mrbo, {"eta": 0.3}),
    "SUSTAIN": (sustain, {"eta_y": 0.3, "eta_x": 0.6}),
    "STOCBIO": (stocbio, {"terms": 5}),
    "AMIGO": (amigo, {"v_steps": 4}),
    "F2SA": (f2sa, {"lambda_init": 3.0, "lambda_power": 0.5, "lambda_max": 6.0}),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_steps_equal_the_formula(method):
    problem = NoisyQuadratic()
    formula, options = FORMULAS[method]
    trainer = make(problem, method, options)
    path = formula(problem)
    for steps in (1, 2, STEPS):
        trainer = make(problem, method, options)
        trainer.fit(*problem.loaders(), max_steps=steps)
        x, y = path[steps - 1]
        np.testing.assert_allclose(trainer.ul_var[0].numpy(), x, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("method", ["SOBA", "SABA", "SRBA", "MASOBA", "MRBO", "SUSTAIN"])
def test_the_first_direction_of_the_full_batch_is_the_closed_form(method):
    problem = NoisyQuadratic()
    trainer = make(problem, method)
    v = np.linspace(-1.0, 1.0, len(problem.y0))
    trainer.current_run.auxiliary = {"v": [jt.array(v.astype("float32"))]} if method in ("SOBA", "SABA") else {}
    v = np.float32(v) if method in ("SOBA", "SABA") else 0.0 * v
    result = trainer.hypergradient(*problem.full())
    _, _, d_x = problem.directions(problem.x0, problem.y0, v.astype(float))
    np.testing.assert_allclose(result.gradients[0].numpy(), d_x, rtol=1e-6, atol=1e-6)


def test_v_at_the_solution_gives_the_hypergradient():
    problem = NoisyQuadratic()
    y = np.linalg.solve(problem.A, problem.B @ problem.x0 + problem.c)
    v = np.linalg.solve(problem.A, problem.upper_by_y(y, problem.x0))
    trainer = make(problem, "SOBA")
    trainer.ll_var[0].assign(jt.array(y.astype("float32")))
    trainer.current_run.auxiliary = {"v": [jt.array(v.astype("float32"))]}
    result = trainer.hypergradient(*problem.full())
    np.testing.assert_allclose(result.gradients[0].numpy(), problem.hypergradient(problem.x0), rtol=1e-5, atol=1e-5)


def test_without_a_size_of_its_own_v_takes_the_lower_rate():
    problem = NoisyQuadratic()
    trainer = make(problem, "SOBA", {"v_lr": 0.0})
    trainer.fit(*problem.loaders(), max_steps=STEPS)
    path = single_steps(problem, lambda k, z, i, j: problem.directions(*z, i, j), v_lr=LL_LR)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), path[-1][0], rtol=1e-5, atol=2e-6)


def test_groups_have_step_sizes_of_their_own_in_the_series_of_stocbio():
    """Many terms are the inverse whatever the sizes; the series is scaled before its first term, not after its last."""
    h, c, x = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -2.0]), 0.5

    class Pair(jt.Module):
        def __init__(self):
            self.a, self.b = jt.zeros(1), jt.zeros(1)

    class One(jt.Module):
        def __init__(self):
            self.x = jt.array([x])

    def f(batch, ul_model, ll_model):
        a, b = ll_model.a, ll_model.b
        curved = 0.5 * (h[0, 0] * a * a + 2.0 * h[0, 1] * a * b + h[1, 1] * b * b)
        return (curved - ul_model.x * (c[0] * a + c[1] * b)).sum()

    def upper(batch, ul_model, ll_model):
        return (ll_model.a + 3.0 * ll_model.b).sum()

    lower, top = Pair(), One()
    rates = [{"params": [lower.a], "lr": 0.1}, {"params": [lower.b], "lr": 0.4}]
    trainer = BilevelTrainer(
        lower,
        top,
        f,
        upper,
        ll_optimizer=jt.optim.SGD(rates, 0.1),
        ul_optimizer=jt.optim.SGD(top.parameters(), 1.0),
        sl_op="STOCBIO",
        lower_iters=1,
        solver_config={"STOCBIO": {"terms": 200}},
    )
    found = trainer.hypergradient({}, {}).gradients[0].item()
    assert found == pytest.approx(c @ np.linalg.solve(h, [1.0, 3.0]), rel=1e-5)


def test_coupled_weight_decay_belongs_to_the_lower_objective():
    problem, decay = NoisyQuadratic(), 0.4
    trainer = make(problem, "SOBA", weight_decay=decay)
    trainer.fit(*problem.loaders(), max_steps=STEPS)
    path = single_steps(problem, lambda k, z, i, j: problem.directions(*z, i, j, decay=decay))
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), path[-1][0], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), path[-1][1], rtol=1e-5, atol=2e-6)


def test_both_of_the_users_optimizers_move():
    problem, beta = NoisyQuadratic(), 0.6
    trainer = make(problem, "SOBA", upper=lambda p, lr: jt.optim.SGD(p, lr, momentum=beta), momentum=beta)
    trainer.fit(*problem.loaders(), max_steps=STEPS)
    x, y, v, order = problem.x0, problem.y0, 0.0 * problem.y0, Batches(problem)
    m_x, m_y = 0.0, 0.0
    for _ in range(STEPS):
        d_y, d_v, d_x = problem.directions(x, y, v, order.next_lower(), order.next_upper())
        m_x, m_y = beta * m_x + d_x, beta * m_y + d_y
        x, y, v = x - UL_LR * m_x, y - LL_LR * m_y, v - V_LR * d_v
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), x, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(trainer.ll_var[0].numpy(), y, rtol=1e-5, atol=2e-6)


def test_soba_takes_the_steps_of_dm():
    problem = NoisyQuadratic()
    ul_model, ll_model = problem.models()
    dm = BilevelTrainer(
        ll_model,
        ul_model,
        problem.f,
        problem.F,
        ll_optimizer=jt.optim.SGD(list(ll_model.parameters()), LL_LR),
        ul_optimizer=jt.optim.SGD(list(ul_model.parameters()), UL_LR / LL_LR),
        gm_op=["DM"],
        na_op=["RAD"],
        solver_config={"DM": {"tau": 0.0, "eta0": 1.0}},
        ll_optimizer_state="carry",
    )
    trainer = make(problem, "SOBA", {"v_lr": 0.0})
    for one in (dm, trainer):
        one.fit(*problem.loaders(), max_steps=STEPS)
    np.testing.assert_allclose(trainer.ul_var[0].numpy(), dm.ul_var[0].numpy(), rtol=1e-6, atol=1e-7)

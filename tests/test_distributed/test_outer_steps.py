"""Every kind of outer step on several ranks: as one process with all samples, and as its formula in float64."""

from exact_steps import (
    Exact,
    dual_multiplier,
    f2sa,
    one_step_meso,
    one_step_pgdo,
    one_step_pgdo_gradient,
    one_step_vfo,
    soba,
)
import numpy as np
from problems import DIM_X, DIM_Y
import pytest
from test_distributed import outer_steps
from test_distributed.outer_steps import CASES, LR, STEPS, UPPER_LR, K, M
from test_distributed.sampled import SampledClassifier, SampledQuadratic

RANKS = [2, 3]
ON_THREE = ("RAD", "RAD, GDA, DI, PTT", "CG", "NYS", "IAD, CG", "DM, GDA, CG", "VFO", "SOBA", "MLP, RAD", "BatchNorm")
CHAINS = ("RAD", "RGT", "CG", "NS", "NYS", "FD", "IGA", "IAD")
TAME = {"coupling": 0.3, "rho": 1.0}
TELLS_HOW = {"traffic", "iterations"}  # where a solver stops may depend on rounding


def on_ranks(names):
    """Each case on each number of ranks; three ranks run some of every kind in short, the others at length."""
    every = []
    for name in names:
        for ranks in RANKS:
            marks = pytest.mark.long if ranks == 3 and name not in ON_THREE else ()
            every.append(pytest.param(name, ranks, marks=marks, id=f"{name}-{ranks}"))
    return every


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """What each of some ranks has found of a case: ``found(ranks, name)`` is a list of mappings, one a rank."""
    known = {}

    def of(ranks, name):
        names = tuple(case for case in CASES if ranks == 2 or (case in ON_THREE) == (name in ON_THREE))
        if (ranks, names) not in known:
            folder = tmp_path_factory.mktemp(f"{ranks}-ranks")
            done = run(ranks, "outer_steps.py", folder, *names, timeout=500)
            assert done.returncode == 0, done.stderr[-4000:]
            known[ranks, names] = [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]
        return known[ranks, names]

    return of


@pytest.fixture(scope="module")
def alone():
    """The same of this process, with all samples."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = outer_steps.outer_steps(name)
        return known[name]

    return of


def relative_error(got, exact):
    return np.linalg.norm(got - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(("name", "ranks"), on_ranks(CASES))
def test_five_steps_are_those_of_one_process(found, alone, name, ranks):
    exact, (first, *others) = alone(name), found(ranks, name)
    for key in exact.keys() - TELLS_HOW:
        for other in others:  # what is decided on these numbers is decided alike everywhere
            assert other[f"{name}/{key}"].tobytes() == first[f"{name}/{key}"].tobytes(), key
        if np.any(exact[key]):
            assert relative_error(first[f"{name}/{key}"], exact[key]) < 1e-5, key
        else:
            assert not np.any(first[f"{name}/{key}"]), key
    assert np.abs(exact["ul_model.value"] - CASES[name]()[1].values()["ul_model.value"]).max() > 1e-4


def chain_of(name):
    problem, trainer = CASES[name]()
    return problem, trainer.gm_op, trainer.na_op


@pytest.mark.parametrize(
    ("name", "ranks"), on_ranks([name for name in CASES if name.startswith(CHAINS) and "Adam" not in name])
)
def test_the_first_gradient_is_that_of_the_closed_form(found, name, ranks):
    problem, gm_op, na_op = chain_of(name)
    alphas = 0.4 * 0.9 ** np.arange(K) if "GDA" in gm_op else np.zeros(K)
    exact, upper_loss, _, by_y0 = problem.reference(na_op, K=K, lr=LR, alphas=alphas, M=M, k=10, rho=0.1, lam=0.7)
    got = {key: found(ranks, name)[0][f"{name}/{key}"] for key in ("gradient", "upper loss", "by y_0")}
    assert relative_error(got["gradient"], exact) < 1e-5
    assert got["upper loss"] == pytest.approx(upper_loss, rel=1e-6)
    if "DI" in gm_op:
        assert relative_error(got["by y_0"], by_y0) < 1e-5


FORMULAS = {
    "VFO": one_step_vfo,
    "PGDO": one_step_pgdo,
    "PGDO, gradient": one_step_pgdo_gradient,
    "MESO": one_step_meso,
}


@pytest.mark.parametrize(("name", "ranks"), on_ranks(FORMULAS))
def test_the_first_step_of_a_first_order_method_is_its_formula(found, name, ranks):
    problem = SampledQuadratic(**TAME)
    direction, y = FORMULAS[name](Exact(problem), problem.x0, problem.y0)
    first = found(ranks, name)[0]
    assert relative_error(first[f"{name}/gradient"], direction) < 1e-5
    assert relative_error(first[f"{name}/y"], y) < 1e-5


SINGLE = {
    "DM": lambda p: dual_multiplier(p, STEPS, ["DM"], ["RAD"], "s1", lr_y=LR, lr_x=UPPER_LR)[:2],
    "DM, GDA, CG": lambda p: dual_multiplier(p, STEPS, ["GDA", "DM"], ["CG"], "s1", lr_y=LR, lr_x=UPPER_LR)[:2],
    "SOBA": lambda p: soba(p, STEPS, lr_y=LR, lr_v=0.2, lr_x=UPPER_LR),
    "F2SA": lambda p: f2sa(p, STEPS, lr_y=LR, lr_v=0.2, lr_x=UPPER_LR),
}


@pytest.mark.parametrize(("name", "ranks"), on_ranks(SINGLE))
def test_five_steps_of_a_single_loop_are_their_formulas(found, name, ranks):
    x, y = SINGLE[name](SampledQuadratic(**TAME))
    first = found(ranks, name)[0]
    assert relative_error(first[f"{name}/ul_model.value"], x) < 1e-5
    assert relative_error(first[f"{name}/ll_model.value"], y) < 1e-5


def adam(params, grads, state, step, lr=0.05, b0=0.9, b1=0.999, eps=1e-2):
    state = state or [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    state = [(b0 * m + (1 - b0) * g, b1 * v + (1 - b1) * g * g) for (m, v), g in zip(state, grads, strict=True)]
    size = lr * np.sqrt(1 - b1**step) / (1 - b0**step)
    return [p - size * m / (np.sqrt(v) + eps) for p, (m, v) in zip(params, state, strict=True)], state


def momentum(params, grads, state, step):
    state = [0.9 * v + g for v, g in zip(state or [0.0] * len(grads), grads, strict=True)]
    return [p - 0.3 * v for p, v in zip(params, state, strict=True)], state


UPDATES = {"MLP, RAD": momentum, "MLP, RAD, Adam": adam}


@pytest.mark.parametrize(("name", "ranks"), on_ranks(UPDATES))
def test_a_network_against_finite_differences(found, name, ranks):
    exact = SampledClassifier(hidden=5).unrolled_gradient(6, UPDATES[name])
    assert relative_error(found(ranks, name)[0][f"{name}/gradient"], exact) < 5e-4


UPPER, NETWORK = 2, 6
"""Reductions of F's gradients by x and by y, and lower steps of the networks."""

REDUCTIONS = {
    "RAD": K + UPPER + (K - 1) + 1,
    "RAD, rebuilt": K + UPPER + K + (K - 1) + 1,
    "RAD, Adam": K + UPPER + (K - 1) + 1,
    "RAD, GDA, DI, PTT": K + UPPER + K + 1,  # the tenth iterate is the worst, and y_0 is differentiated by
    "RGT": K + UPPER + (K - M - 1) + 1,
    "CG": K + UPPER + 1 + 1,  # and each iteration's product
    "CG, GDA": K + UPPER + 1 + 1,
    "NS": K + UPPER + 1 + 1,
    "NYS": K + UPPER + 1 + 1,
    "FD": K + UPPER + 2,
    "IGA": K + UPPER + 2,
    "IAD": K + UPPER + K,
    "IAD, FOA": K + UPPER,
    "IAD, CG": K + UPPER + 1,
    "DM": UPPER + 1 + 2,
    "DM, GDA, CG": UPPER + 1 + 2 + 1,
    "VFO": UPPER + 2 + 4 + 1,  # at y, on the way to y_hat, and there by x
    "PGDO": UPPER + 2 + 4 + 1,
    "PGDO, gradient": UPPER + 1 + 2,
    "MESO": 3 + 3,
    "SOBA": UPPER + 1 + 2,
    "F2SA": 3 * 2,
    "MLP, RAD": NETWORK + 1 + (NETWORK - 1) + 1,
    "MLP, RAD, Adam": NETWORK + 1 + (NETWORK - 1) + 1,
    "MLP, CG": NETWORK + 1 + 1 + 1,
    "BatchNorm": NETWORK + 1 + (NETWORK - 1) + 1 + 50,  # two means a forward pass, and their derivatives
}


@pytest.mark.parametrize("name", CASES)
def test_the_number_of_reductions_of_an_outer_step(found, name):
    first = found(2, name)[0]
    assert first[f"{name}/traffic"][0] == REDUCTIONS[name] + first[f"{name}/iterations"][-1]


def test_what_rad_sends(found):
    y, x = 4 * DIM_Y, 4 * DIM_X
    assert found(2, "RAD")[0]["RAD/traffic"][1] == (K + 1 + K - 1) * y + 2 * x

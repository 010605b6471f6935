"""Norms, and what is divided by them, where squares leave the range of float32."""

import math

from chains import solve
from jboat import functional
from jboat.callbacks import GradientClipping
from jboat.trainers.outer_step.result import HyperGradientResult
import jittor as jt
import numpy as np
from problems import Quadratic
import pytest
from small_trainers import make


def variables(*arrays):
    return [jt.array(np.asarray(a, dtype="float32")) for a in arrays]


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-25, 1e-12, 1.0, 1e12, 1e25, 1e38])
def test_the_norm_of_entries_of_every_size(size):
    arrays = [size * np.array([[1.0, -2.0]]), size * np.array([2.0])]
    exact = np.linalg.norm(np.concatenate([a.astype("float32").astype(float).ravel() for a in arrays]))
    assert functional.norm(variables(*arrays)) == pytest.approx(exact, rel=1e-6, abs=0)
    result = HyperGradientResult(variables(*arrays), 0.0, 0.0)
    assert result.norm == pytest.approx(exact, rel=1e-6, abs=0)


def test_nan_and_infinity_are_not_masked():
    assert math.isnan(functional.norm(variables([1.0, np.nan], [np.inf])))
    assert functional.norm(variables([1e30], [-np.inf])) == math.inf


@pytest.mark.parametrize("size", [1e10, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("limit", [1.0, 1e-6])
def test_clipping_by_norm(size, limit):
    (clipped,) = GradientClipping(max_norm=limit)._clipped(variables([0.6 * size, -0.8 * size]))
    np.testing.assert_allclose(clipped.numpy(), [0.6 * limit, -0.8 * limit], rtol=1e-5)
    assert str(clipped.dtype) == "float32"


def test_clipping_by_value_of_what_times_the_limit_overflows():
    (clipped,) = GradientClipping(max_value=100.0)._clipped(variables([3e38, -3e38, 5.0]))
    np.testing.assert_allclose(clipped.numpy(), [100.0, -100.0, 5.0])


class Scaled(Quadratic):
    """The quadratic with F multiplied, and every hypergradient with it."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def F(self, batch, ul_model, ll_model):
        return super().F(batch, ul_model, ll_model) * self.size


SECTIONS = {"CG": {"k": 40, "tolerance": 1e-6}, "NS": {"k": 10, "tolerance": 0.0}, "FD": {"r": 0.1}}


@pytest.mark.parametrize("size", [1e-30, 1e25])
@pytest.mark.parametrize("na", ["CG", "NS", "FD", "IGA", "RAD"])
def test_hypergradients_scale_with_the_upper_objective(na, size):
    problem = Scaled(size)
    exact = size * problem.reference((na,), K=5, lr=0.1)[0]
    result = solve(problem, ("NGD",), (na,), lower_iters=5, lr=0.1, sections=SECTIONS)
    got = result["hyper_gradient"][0].numpy().astype(float)
    assert np.linalg.norm(got - exact) < (2e-3 if na == "FD" else 2e-4) * np.linalg.norm(exact)


class Steep(Quadratic):
    """The quadratic with f multiplied."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def f(self, batch, ul_model, ll_model):
        return super().f(batch, ul_model, ll_model) * self.size


@pytest.mark.parametrize("size", [1e-24, 1e22])
def test_iga_with_a_lower_objective_of_any_size(size):
    problem = Steep(size)  # the quotient makes up for the size
    y = problem.iterates(problem.x0, problem.y0, 1, 0.1, np.zeros(1))[-1]
    p, Fy = problem.phi_by_y(y, problem.x0, 0.0), problem.upper_by_y(y, problem.x0)
    exact = problem.upper_by_x(y, problem.x0) - (Fy @ p) / (p @ p) * problem.phi_by_x(y, problem.x0, 0.0)
    result = solve(problem, ("NGD",), ("IGA",), lower_iters=1, lr=0.1 / size)
    np.testing.assert_allclose(result["hyper_gradient"][0].numpy(), exact, rtol=1e-3)


def test_the_barrier_of_vfo_and_the_line_search_of_dm():
    for kwargs in ({"fo_op": "VFO"}, {"gm_op": ["DM"], "na_op": ["CG"]}):
        found = []
        for problem in (Quadratic(), Scaled(1e20)):
            trainer = make(
                problem=problem,
                ll_objective=problem.f if "gm_op" in kwargs else problem.F,
                ll_lr=0.01,
                ul_lr=0.01,
                lower_iters=1,
                solver_config={"VFO": {"y_hat_lr": 1e-24, "u1": 0.5}},
                **kwargs,
            )
            result = trainer.hypergradient({}, {})
            auxiliary = result.auxiliary.get("multiplier", result.gradients)
            found.append([v.numpy().astype(float) for v in auxiliary] + [np.array(result.norm)])
        for plain, scaled in zip(*found, strict=True):
            np.testing.assert_allclose(scaled, 1e20 * plain, rtol=1e-3)

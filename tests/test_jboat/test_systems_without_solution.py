"""What the linear solvers make of Hessians that are not positive definite."""

import logging

from jboat import linear_solvers
import jittor as jt
import numpy as np
from problems import Point
import pytest
from small_trainers import make


def product_with(matrix):
    a = jt.array(np.asarray(matrix, dtype="float32"))
    return lambda v: [(a * v[0].reshape(1, -1)).sum(1)]


def cg(matrix, b, k, tolerance=1e-6):
    b = jt.array(np.asarray(b, dtype="float32"))
    solution = linear_solvers.conjugate_gradient(product_with(matrix), [b], iterations=k, tolerance=tolerance)
    return solution, solution.vector[0].numpy().astype(float)


def unseen(b, k):
    """A variable that the matrix does not see, in its own direction or in another basis."""
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    straight = cg(np.diag([1.0, 0.0]), b, k)
    turned = cg(rotation @ np.diag([1.0, 0.0]) @ rotation.T, rotation @ b, k)
    return [(straight[0], straight[1]), (turned[0], rotation.T @ turned[1])]


@pytest.mark.parametrize("k", [1, 2, 3, 10, 50])
def test_what_the_matrix_sees_is_solved_whatever_it_does_not_see(k):
    for solution, q in unseen([2.0, -2.0], k):
        assert q[0] == pytest.approx(2.0, rel=1e-5)
        assert solution.residual == pytest.approx(np.sqrt(0.5), rel=1e-5)
        assert solution.breakdown


@pytest.mark.parametrize("b", [[2.0, -0.5], [0.3, 5.0], [1.0, 1e-3]])
@pytest.mark.parametrize("k", [2, 10])
def test_however_large_the_part_is_that_it_does_not_see(b, k):
    for solution, q in unseen(b, k):
        assert q[0] == pytest.approx(b[0], rel=1e-4)
        assert solution.residual == pytest.approx(abs(b[1]) / np.hypot(*b), rel=1e-4)


def test_a_larger_singular_system_gives_the_least_residual():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    matrix = basis[:, :4] @ np.diag([0.5, 1.0, 2.0, 3.0]) @ basis[:, :4].T
    b = rng.normal(size=6)
    for k in (4, 5, 12):
        solution, q = cg(matrix, b, k)
        exact = np.linalg.pinv(matrix) @ b
        np.testing.assert_allclose(matrix @ q, matrix @ exact, rtol=1e-3, atol=1e-3)
        assert solution.breakdown
        assert np.linalg.norm(matrix @ q - b) / np.linalg.norm(b) == pytest.approx(solution.residual, rel=1e-3)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_negative_curvature_ends_the_iteration(k):
    solution, q = cg(np.diag([1.0, -3.0]), [1.0, 2.0], k)
    assert solution.iterations == 1
    assert "curvature" in solution.breakdown
    np.testing.assert_array_equal(q, 0.0)  # no iterate is better than none
    solution, q = cg(np.diag([1.0, 2.0, -0.5]), [1.0, 1.0, 0.1], 10)
    assert "curvature" in solution.breakdown
    assert solution.iterations > 1
    assert np.linalg.norm(np.diag([1.0, 2.0, -0.5]) @ q - [1.0, 1.0, 0.1]) < 1.42


def test_a_residual_that_grows_on_the_way_is_no_failure():
    matrix, b = np.diag([1.0, 100.0]), np.array([1.0, 0.2])
    first, _ = cg(matrix, b, 1)
    assert first.residual < 1.0
    step = b @ b / (b @ matrix @ b)
    assert np.linalg.norm(b - step * matrix @ b) > 3 * np.linalg.norm(b)  # of conjugate gradient's own iterate
    solution, q = cg(matrix, b, 2, tolerance=1e-4)
    np.testing.assert_allclose(q, [1.0, 0.002], rtol=1e-4)
    assert (solution.iterations, solution.breakdown) == (2, "")


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_right_hand_sides_of_every_size(size):
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    b = size * np.array([1.0, -1.0])
    solution, q = cg(matrix, b, 10)
    np.testing.assert_allclose(q, np.linalg.solve(matrix, b), rtol=1e-5)
    assert solution.breakdown == ""
    for terms in (0, 4):
        series = linear_solvers.neumann_series(
            product_with(matrix), [jt.array(b.astype("float32"))], scales=[0.3], terms=terms, tolerance=1e-6
        )
        exact = sum(np.linalg.matrix_power(np.eye(2) - 0.3 * matrix, j) @ (0.3 * b) for j in range(terms + 1))
        np.testing.assert_allclose(series.vector[0].numpy(), exact, rtol=1e-4)
        assert series.iterations == terms


def test_an_infinite_right_hand_side_is_not_masked():
    _, q = cg(np.eye(2), [np.inf, 1.0], 3)
    assert not np.isfinite(q).all()


def test_a_growing_series_says_so():
    b = [jt.array(np.array([1.0, 1.0], dtype="float32"))]
    grown = linear_solvers.neumann_series(product_with(np.diag([1.0, 3.0])), b, scales=[1.0], terms=4, tolerance=0.0)
    assert grown.breakdown == "the terms of the series grow"
    tame = linear_solvers.neumann_series(product_with(np.diag([1.0, 1.5])), b, scales=[1.0], terms=4, tolerance=0.0)
    assert tame.breakdown == ""


def unseen_variable(k):
    """f = (y_0 - x)^2 / 2 does not see y_1, F = ((y_0 - 1)^2 + (y_1 - 2)^2) / 2 does; at x = 3 dF/dx is 2."""

    def f(batch, ul, ll):
        return 0.5 * ((ll()[:1] - ul()) ** 2).sum()

    def F(batch, ul, ll):
        return 0.5 * ((ll() - jt.array([1.0, 2.0])) ** 2).sum()

    return make(
        ll_model=Point([0.0, 0.0]),
        ul_model=Point([3.0]),
        ll_objective=f,
        ul_objective=F,
        ll_lr=0.5,
        lower_iters=50,
        na_op=["CG"],
        solver_config={"CG": {"k": k}},
    )


@pytest.mark.parametrize("k", [1, 2, 10])
def test_cg_with_a_variable_that_the_lower_objective_does_not_see(k, caplog):
    trainer = unseen_variable(k)
    with caplog.at_level(logging.WARNING, logger="jboat"):
        results = [trainer.hypergradient({}, {}) for _ in range(3)]
    for result in results:
        np.testing.assert_allclose(result.gradients[0].numpy(), 2.0, rtol=1e-5)
        assert result.diagnostics["cg_breakdown"] == 1.0
    (record,) = [r for r in caplog.records if r.getMessage().startswith("CG: the hypergradient is an approximation")]
    assert "the lower objective is not strongly convex" in record.getMessage()

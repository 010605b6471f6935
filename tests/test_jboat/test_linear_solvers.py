"""Linear solvers against numpy."""

from jboat import linear_solvers
import jittor as jt
import numpy as np
import pytest

RNG = np.random.default_rng(0)
M = RNG.normal(size=(6, 6))
A = M @ M.T / 6 + np.eye(6)
B = RNG.normal(size=6)


def product(v):
    """A times v, the vector held in two Vars."""
    whole = jt.concat(v)
    image = (jt.array(A.astype("float32")) * whole.reshape(1, -1)).sum(1)
    return [image[:2], image[2:]]


def split(vector):
    return [jt.array(vector[:2].astype("float32")), jt.array(vector[2:].astype("float32"))]


def joined(solution):
    return np.concatenate([v.numpy() for v in solution.vector])


def test_conjugate_gradient_solves():
    solution = linear_solvers.conjugate_gradient(product, split(B), iterations=20, tolerance=1e-6)
    np.testing.assert_allclose(joined(solution), np.linalg.solve(A, B), rtol=1e-5)
    assert solution.iterations <= 8
    true_residual = np.linalg.norm(A @ joined(solution) - B) / np.linalg.norm(B)
    assert true_residual < 3e-6


def test_conjugate_gradient_stops_at_its_iterations_and_its_tolerance():
    short = linear_solvers.conjugate_gradient(product, split(B), iterations=2, tolerance=0.0)
    assert short.iterations == 2
    loose = linear_solvers.conjugate_gradient(product, split(B), iterations=20, tolerance=0.1)
    assert loose.iterations < 6
    assert np.linalg.norm(A @ joined(loose) - B) / np.linalg.norm(B) == pytest.approx(loose.residual, rel=1e-3)
    assert loose.residual <= 0.1


@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_conjugate_gradient_ends_where_float32_does(size):
    exhausted = linear_solvers.conjugate_gradient(product, split(size * B), iterations=100, tolerance=0.0)
    assert exhausted.iterations < 20
    np.testing.assert_allclose(joined(exhausted), size * np.linalg.solve(A, B), rtol=1e-5)


def test_conjugate_gradient_of_zero_is_zero():
    solution = linear_solvers.conjugate_gradient(product, split(0 * B), iterations=5, tolerance=0.0)
    assert (solution.iterations, solution.residual) == (0, 0.0)
    np.testing.assert_array_equal(joined(solution), 0)


@pytest.mark.parametrize("terms", [0, 1, 7])
def test_neumann_series_is_the_partial_sum(terms):
    scales = np.array([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    solution = linear_solvers.neumann_series(product, split(B), scales=[0.1, 0.2], terms=terms, tolerance=0.0)
    S = np.diag(scales)
    exact = sum(np.linalg.matrix_power(np.eye(6) - S @ A, j) @ S @ B for j in range(terms + 1))
    np.testing.assert_allclose(joined(solution), exact, rtol=1e-5)
    assert solution.iterations == terms


def test_neumann_series_stops_at_its_tolerance():
    solution = linear_solvers.neumann_series(product, split(B), scales=[0.3, 0.3], terms=500, tolerance=1e-3)
    assert solution.iterations < 100
    assert solution.residual <= 1e-3


def test_nan_stays_nan():
    b = split(np.where(np.arange(6) == 1, np.nan, B))
    assert np.isnan(joined(linear_solvers.conjugate_gradient(product, b, iterations=3, tolerance=1e-6))).any()
    neumann = linear_solvers.neumann_series(product, b, scales=[0.1, 0.1], terms=3, tolerance=1e-6)
    assert np.isnan(joined(neumann)).any()

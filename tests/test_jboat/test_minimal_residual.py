"""MINRES and conjugate gradient on the normal equations against numpy's dense solve."""

from jboat import linear_solvers, minimal_residual
import jittor as jt
from linear_systems import SPECTRA, B, Product, joined, matrix_of, residual_of, split
import numpy as np
import pytest

SOLVERS = {"minres": minimal_residual.minres, "normal_cg": minimal_residual.normal_equations}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_regular_system_is_solved_whatever_its_curvature(name, spectrum):
    matrix = matrix_of(SPECTRA[spectrum])
    product = Product(matrix)
    solution = SOLVERS[name](product, split(B), iterations=12, tolerance=1e-6)
    np.testing.assert_allclose(joined(solution), np.linalg.solve(matrix, B), rtol=2e-4, atol=2e-5)
    assert solution.breakdown == ""
    assert solution.residual <= 1e-6
    assert solution.iterations == product.calls
    lowest = min(SPECTRA[spectrum])
    if lowest > 0.0:
        assert solution.negative_curvature == 0.0
    else:
        assert lowest * 1.0001 <= solution.negative_curvature < 0.0


@pytest.mark.parametrize("solver", [linear_solvers.conjugate_gradient, *SOLVERS.values()])
def test_in_float64_nothing_is_rounded_to_float32(solver):
    """A wide spectrum, and for MINRES one with a part that nothing reaches."""
    spectrum = [1e-3, 1e-2, 0.3, 1.0, 10.0, 100.0]
    matrix = matrix_of(spectrum)

    def product(v):
        return [jt.array(matrix @ v[0].numpy(), dtype="float64")]

    solution = solver(product, [jt.array(B, dtype="float64")], iterations=60, tolerance=1e-9)
    assert solution.breakdown == ""
    assert solution.residual <= 1e-9
    assert residual_of(matrix, solution) == pytest.approx(solution.residual, rel=0.1)


def test_minres_in_float64_ends_at_the_least_residual_of_a_singular_system():
    matrix = np.diag([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])

    def product(v):
        return [jt.array(matrix @ v[0].numpy(), dtype="float64")]

    solution = minimal_residual.minres(product, [jt.array(np.ones(6), dtype="float64")], iterations=60, tolerance=1e-6)
    assert solution.residual == pytest.approx(np.sqrt(1 / 3), rel=1e-12)
    assert "does not see" in solution.breakdown
    assert np.linalg.norm(joined(solution)) < 4.0


def test_minres_takes_one_product_an_iteration_and_normal_equations_two():
    for name, calls in (("minres", 3), ("normal_cg", 7)):
        product = Product(matrix_of(SPECTRA["indefinite"]))
        solution = SOLVERS[name](product, split(B), iterations=3, tolerance=1e-9)
        assert product.calls == solution.iterations == calls


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_minres_has_the_least_residual_of_its_krylov_space(spectrum, k):
    matrix = matrix_of(SPECTRA[spectrum])
    solution = minimal_residual.minres(Product(matrix), split(B), iterations=k, tolerance=1e-9)
    krylov = np.stack([np.linalg.matrix_power(matrix, j) @ B for j in range(k)], axis=1)
    best = krylov @ np.linalg.lstsq(matrix @ krylov, B, rcond=None)[0]
    np.testing.assert_allclose(joined(solution), best, rtol=1e-3, atol=1e-4)
    assert solution.residual == pytest.approx(residual_of(matrix, solution), rel=1e-3)
    assert solution.residual == pytest.approx(np.linalg.norm(matrix @ best - B) / np.linalg.norm(B), rel=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spectrum", [[0.0, 0.0, 0.5, 1.0, 2.0, 3.0], [0.0, -1.0, 0.5, 1.0, 2.0, 3.0]])
def test_a_singular_system_ends_at_the_least_residual(name, spectrum):
    matrix = matrix_of(spectrum)
    solution = SOLVERS[name](Product(matrix), split(B), iterations=30, tolerance=1e-6)
    exact = np.linalg.pinv(matrix, rcond=1e-8) @ B
    np.testing.assert_allclose(matrix @ joined(solution), matrix @ exact, rtol=1e-3, atol=2e-3)
    least = np.linalg.norm(matrix @ exact - B) / np.linalg.norm(B)
    assert solution.residual == pytest.approx(least, rel=1e-3)
    assert "does not see" in solution.breakdown
    assert solution.iterations < 20


@pytest.mark.parametrize("name", SOLVERS)
def test_a_singular_system_that_has_a_solution(name):
    matrix = matrix_of([0.0, -1.0, 0.5, 1.0, 2.0, 3.0])
    inside = matrix @ B
    solution = SOLVERS[name](Product(matrix), split(inside), iterations=12, tolerance=1e-5)
    np.testing.assert_allclose(joined(solution), np.linalg.pinv(matrix, rcond=1e-8) @ inside, rtol=1e-3, atol=1e-4)
    assert solution.breakdown == ""


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_right_hand_sides_of_every_size(name, size):
    matrix = matrix_of(SPECTRA["indefinite"])
    solution = SOLVERS[name](Product(matrix), split(size * B), iterations=12, tolerance=1e-6)
    np.testing.assert_allclose(joined(solution) / size, np.linalg.solve(matrix, B), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_stays_zero_and_nan_stays_nan(name):
    product = Product(matrix_of(SPECTRA["indefinite"]))
    solution = SOLVERS[name](product, split(0.0 * B), iterations=5, tolerance=1e-6)
    assert (solution.iterations, solution.residual) == (0, 0.0)
    np.testing.assert_array_equal(joined(solution), 0.0)
    for bad in (np.nan, np.inf):
        solution = SOLVERS[name](product, split(np.where(np.arange(6) == 1, bad, B)), iterations=3, tolerance=1e-6)
        assert not np.isfinite(joined(solution)).all()
    wrong = Product(np.where(np.eye(6) > 0, np.nan, 0.0))
    assert np.isnan(joined(SOLVERS[name](wrong, split(B), iterations=3, tolerance=1e-6))).any()


ALL = {**SOLVERS, "cg": linear_solvers.conjugate_gradient}


@pytest.mark.parametrize("name", ALL)
def test_a_start_near_the_solution_saves_products_and_none_is_worse_than_zero(name):
    matrix = matrix_of(SPECTRA["definite"])
    exact = np.linalg.solve(matrix, B)
    counts = {}
    for label, start in {
        "far": 100.0 * B,
        "near": exact + 1e-4 * np.random.default_rng(3).normal(size=6),
        "solved": exact,
    }.items():
        product = Product(matrix)
        solution = linear_solvers.from_start(ALL[name], product, split(B), split(start), tolerance=1e-4, iterations=20)
        np.testing.assert_allclose(joined(solution), exact, rtol=1e-3, atol=3e-4)
        assert solution.residual == pytest.approx(residual_of(matrix, solution), rel=0.05, abs=1e-6)
        assert solution.breakdown == ""
        assert solution.iterations == product.calls
        counts[label] = product.calls
    cold = Product(matrix)
    ALL[name](cold, split(B), tolerance=1e-4, iterations=20)
    assert counts["far"] == cold.calls + 1
    assert counts["solved"] == 1
    assert counts["near"] <= cold.calls / 2


def test_a_series_goes_on_from_its_start():
    matrix, start, rate = matrix_of(SPECTRA["definite"]), 0.1 * B, 0.2
    solution = linear_solvers.from_start(
        linear_solvers.neumann_series,
        Product(matrix),
        split(B),
        split(start),
        scales=[rate, rate],
        terms=4,
        tolerance=0.0,
    )
    q = start
    for _ in range(5):  # a term is a step of the fixed-point iteration
        q = q - rate * (matrix @ q - B)
    np.testing.assert_allclose(joined(solution), q, rtol=1e-4)


def test_conjugate_gradient_names_negative_curvature():
    for spectrum, lowest in (("indefinite", -2.0), ("negative", -4.0)):
        solution = linear_solvers.conjugate_gradient(
            Product(matrix_of(SPECTRA[spectrum])), split(B), iterations=12, tolerance=1e-6
        )
        assert solution.breakdown == "a direction has negative curvature"
        assert lowest * 1.0001 <= solution.negative_curvature < 0.0
    flat = linear_solvers.conjugate_gradient(
        Product(matrix_of([0.0, 0.0, 0.5, 1.0, 2.0, 3.0])), split(B), iterations=12, tolerance=1e-6
    )
    assert flat.negative_curvature == 0.0


@pytest.mark.parametrize("name", SOLVERS)
def test_every_iteration_runs_the_same_kernels(name, loaded_kernels):
    matrix = matrix_of(SPECTRA["indefinite"])
    SOLVERS[name](Product(matrix), split(B), iterations=2, tolerance=1e-9)
    loaded_kernels.restart()
    SOLVERS[name](Product(matrix), split(B), iterations=6, tolerance=1e-9)
    assert loaded_kernels.new() == []

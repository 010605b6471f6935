"""The Nystrom method against numpy in float64."""

from jboat.nystrom import nystrom_solve
from linear_systems import SPECTRA, B, Product, joined, matrix_of, residual_of, split
import numpy as np
import pytest


def dense(matrix, columns, shift):
    """(C W^+ C' + shift I)^-1 B."""
    C = matrix[:, columns]
    W = C[columns]
    return np.linalg.solve(C @ np.linalg.pinv(W, rcond=1e-8) @ C.T + shift * np.eye(6), B)


@pytest.mark.parametrize("spectrum", [*SPECTRA.values(), [0.0, 0.0, 0.5, 1.0, 2.0, 3.0]], ids=str)
@pytest.mark.parametrize("shift", [0.01, 0.3])
def test_all_columns_give_the_inverse(spectrum, shift):
    matrix = matrix_of(spectrum)
    product = Product(matrix)
    solution = nystrom_solve(product, split(B), columns=[3, 0, 5, 1, 4, 2], shift=shift)
    exact = np.linalg.solve(matrix + shift * np.eye(6), B)
    np.testing.assert_allclose(joined(solution), exact, atol=3e-4 * np.linalg.norm(exact))
    assert product.calls == solution.iterations == 7
    assert solution.residual == pytest.approx(residual_of(matrix + shift * np.eye(6), solution), abs=1e-4)
    lowest = min(spectrum)
    if lowest >= 0.0:
        assert solution.negative_curvature == 0.0
    else:
        assert solution.negative_curvature == pytest.approx(lowest, rel=1e-3)


@pytest.mark.parametrize("columns", [[0], [4, 1], [5, 2, 0]])
@pytest.mark.parametrize("spectrum", ["definite", "indefinite"])
def test_some_columns_give_the_formula_of_the_paper(columns, spectrum):
    matrix = matrix_of(SPECTRA[spectrum])
    solution = nystrom_solve(Product(matrix), split(B), columns=columns, shift=0.1)
    exact = dense(matrix, columns, 0.1)
    np.testing.assert_allclose(joined(solution), exact, atol=1e-3 * np.linalg.norm(exact))
    relative = residual_of(matrix + 0.1 * np.eye(6), solution)
    assert solution.residual == pytest.approx(relative, rel=1e-3)
    assert bool(solution.breakdown) == (relative > 1.0)


def test_a_matrix_of_low_rank_needs_no_more_columns_than_that():
    matrix = matrix_of([0.0, 0.0, 0.0, 0.0, 2.0, 3.0])
    solution = nystrom_solve(Product(matrix), split(B), columns=[1, 3], shift=0.01)
    exact = np.linalg.solve(matrix + 0.01 * np.eye(6), B)
    np.testing.assert_allclose(joined(solution), exact, rtol=1e-3, atol=1e-2)


def test_columns_of_zeros_and_an_ill_conditioned_matrix():
    matrix = np.diag([0.0, 3.0, 1.0, 1e-3, 0.0, 2.0])
    solution = nystrom_solve(Product(matrix), split(B), columns=range(6), shift=1e-3)
    np.testing.assert_allclose(joined(solution), B / (np.diag(matrix) + 1e-3), rtol=1e-3)


def test_inner_products_do_not_square_the_condition_number():
    matrix = matrix_of([1e-3, 2e-3, 0.1, 1.0, 2.0, 3.0])
    solution = nystrom_solve(Product(matrix), split(B), columns=range(6), shift=1e-3)
    exact = np.linalg.solve(matrix + 1e-3 * np.eye(6), B)
    np.testing.assert_allclose(joined(solution), exact, atol=5e-3 * np.linalg.norm(exact))


def test_nan_stays_nan():
    for matrix, b in ((np.where(np.eye(6) > 0, np.nan, 0.0), B), (np.eye(6), np.where(np.arange(6) == 1, np.nan, B))):
        solution = nystrom_solve(Product(matrix), split(b), columns=[0, 1], shift=0.1)
        assert np.isnan(joined(solution)).any()


def test_every_column_runs_the_same_kernels(loaded_kernels):
    matrix = matrix_of(SPECTRA["definite"])
    nystrom_solve(Product(matrix), split(B), columns=[0, 3], shift=0.1)
    loaded_kernels.restart()
    nystrom_solve(Product(matrix), split(B), columns=[2, 1, 5, 4], shift=0.2)
    assert loaded_kernels.new() == []

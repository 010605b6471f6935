"""Solvers of ``A q = b`` that make the residual as small as they can, for a symmetric A of any curvature.

Vectors are lists of Vars. Every iteration starts from detached, computed vectors, as in
:mod:`jboat.linear_solvers`; what is decided on the way is decided on numbers that are fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from jboat import functional
from jboat.linear_solvers import PRECISION, MatrixVectorProduct, Solution, flatness, scaled
import jittor as jt

_NO_PROGRESS = 0.999
"""The factor of a residual from one iteration to the next above which a vanishing ``A r`` is believed."""

_NO_SOLUTION = "the right-hand side has a part that the Hessian does not see"


def minres(product: MatrixVectorProduct, b: Sequence[jt.Var], *, iterations: int, tolerance: float) -> Solution:
    """MINRES from zero (Paige and Saunders 1975), for a symmetric A, definite or not, with one product an iteration.

    The residual's norm is the smallest in the Krylov space of the iterations taken, and never grows. Where A is
    singular and ``b`` has a part outside its range, the iteration ends, as a breakdown, at the least residual there is.

    Args:
        product: ``v -> A v`` with A symmetric.
        b: the right-hand side.
        iterations: take at most so many.
        tolerance: stop when the residual's norm is at most this fraction of ``b``'s; one below 1e-10 counts as 1e-10.

    Returns:
        The solution; NaN in ``b`` or in a product stays in it.
    """
    scale, right, square = scaled(b)
    start = math.sqrt(square.item())
    if start == 0.0 or not math.isfinite(start):
        return Solution(right, 0, start)
    flat, smallest = flatness(b), start * max(tolerance, PRECISION)
    zeros = functional.cut([jt.zeros_like(v) for v in right])
    basis, basis_before = functional.cut(functional.times(1.0 / start, right)), zeros
    direction, direction_before, solution = zeros, zeros, zeros
    # the QR decomposition of the Lanczos matrix by rotations (c, s), as Choi, Paige and Saunders 2011 write it
    beta, c, s, delta, epsilon, residual = 0.0, -1.0, 0.0, 0.0, 0.0, start
    largest, lowest, taken, breakdown = 0.0, 0.0, 0, ""
    while taken < iterations and not residual <= smallest:
        image = functional.detached(product(basis))
        quotient = functional.dot(basis, image)
        rest = functional.axpy(quotient, basis, image, factor=-1.0)
        rest = functional.axpy(-beta, basis_before, rest)
        rest, (quotient, square) = functional.cut_lists(rest, [quotient, functional.dot(rest, rest)])
        alpha, next_beta = quotient.item(), math.sqrt(max(square.item(), 0.0))
        taken += 1
        if not math.isfinite(alpha + next_beta):
            solution, residual = functional.cut(functional.axpy(math.nan, basis, solution)), math.nan
            break
        largest = max(largest, math.hypot(beta, alpha, next_beta))
        upper, pivot = c * delta + s * alpha, s * delta - c * alpha
        lowest = min(lowest, alpha, -c * pivot)  # of the basis vector, and of the residual
        next_delta, next_epsilon = -c * next_beta, s * next_beta
        size = math.hypot(pivot, next_beta)
        slope = math.hypot(pivot, next_delta) * residual  # of A r, which holds b's rounding
        lost = next_beta >= _NO_PROGRESS * size or size <= 10.0 * flat * largest
        if slope <= flat * largest * start and lost:
            breakdown = _NO_SOLUTION
            break
        c, s = pivot / size, next_beta / size
        moved = functional.axpy(-upper, direction, basis)
        moved = functional.times(1.0 / size, functional.axpy(-epsilon, direction_before, moved))
        further = functional.axpy(c * residual, moved, solution)
        following = functional.times(1.0 / next_beta, rest) if next_beta > flat * largest else rest
        basis_before, direction_before = basis, direction
        direction, solution, basis = functional.cut_lists(moved, further, following)
        residual, delta, epsilon, beta = s * residual, next_delta, next_epsilon, next_beta
        if next_beta <= flat * largest:  # the Krylov space is complete
            break
    negative = lowest if lowest < -flat * largest else 0.0
    if scale != 1.0:
        solution = functional.times(scale, solution)
    return Solution(functional.detached(solution), taken, residual / start, breakdown, negative)


def normal_equations(
    product: MatrixVectorProduct, b: Sequence[jt.Var], *, iterations: int, tolerance: float
) -> Solution:
    """Conjugate gradient from zero on ``A A q = A b`` (CGLS; Hestenes and Stiefel 1952), for a symmetric A.

    It minimises ``||A q - b||`` whatever the curvature, with two products an iteration and one more to begin with, and
    goes towards the solution of least norm where there are several. The condition number that it meets is the square
    of A's. Where ``b`` has a part outside the range of A, it ends, as a breakdown, at the least residual there is.

    Args:
        product: ``v -> A v`` with A symmetric.
        b: the right-hand side.
        iterations: take at most so many.
        tolerance: stop when the residual's norm is at most this fraction of ``b``'s; one below 1e-10 counts as 1e-10.

    Returns:
        The solution; NaN in ``b`` or in a product stays in it.
    """
    scale, residual, square = scaled(b)
    start = now = square.item()
    if start == 0.0 or not math.isfinite(start):
        return Solution(residual, 0, start)
    flat, smallest = flatness(b), start * max(tolerance, PRECISION) ** 2
    solution = functional.cut([jt.zeros_like(v) for v in residual])
    image = functional.detached(product(residual))
    image, numbers = functional.cut_lists(image, [functional.dot(image, image), functional.dot(image, residual)])
    gradient_square, curved = (n.item() for n in numbers)
    direction, steepest, lowest, taken, breakdown = image, 0.0, 0.0, 1, ""
    for _ in range(iterations):
        if now <= smallest:
            break
        lowest, steepest = min(lowest, curved / now), max(steepest, math.sqrt(gradient_square / now))
        if gradient_square <= (flat * steepest) ** 2 * now:  # A r vanishes
            breakdown = _NO_SOLUTION
            break
        image = functional.detached(product(direction))
        length = functional.dot(image, image)
        (step,) = functional.times(gradient_square, [1.0 / length])
        solution = functional.axpy(step, direction, solution)
        residual = functional.axpy(step, image, residual, factor=-1.0)
        solution, residual, (square, length) = functional.cut_lists(
            solution, residual, [functional.dot(residual, residual), length]
        )
        image = functional.detached(product(residual))
        new_square = functional.dot(image, image)
        (growth,) = functional.times(1.0 / gradient_square, [new_square])
        direction = functional.axpy(growth, direction, image)
        direction, (new_square, curvature) = functional.cut_lists(
            direction, [new_square, functional.dot(image, residual)]
        )
        taken += 2
        now, gradient_square, curved = square.item(), new_square.item(), curvature.item()
        if not math.isfinite(now + gradient_square):
            break
    negative = lowest if lowest < -flat * steepest else 0.0
    if scale != 1.0:
        solution = functional.times(scale, solution)
    return Solution(functional.detached(solution), taken, math.sqrt(now / start), breakdown, negative)

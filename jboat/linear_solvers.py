"""Solve ``A q = b`` with products ``A v`` alone; vectors are lists of Vars.

Every iteration starts from detached, computed vectors, so that all iterations run the same compiled kernels and the
graph does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple, TypeAlias

from jboat import functional
import jittor as jt
import numpy as np

MatrixVectorProduct: TypeAlias = "Callable[[list[jt.Var]], list[jt.Var]]"


PRECISION = 1e-10
_SAFE_SQUARES = (1e-18, 1e18)
"""Squares of right-hand sides that need no scaling, since those of their residuals stay in float32's range."""

STALLED = "the residual is no smaller than the right-hand side"

_NEAR = 1e-3
"""A relative residual from which no progress is a matter of float32 rather than of the system."""

_LOST = 1e3
"""How far a residual may grow above the right-hand side; float32 could not bring it below 1e-4 of that again."""


class Solution(NamedTuple):
    """What a solver returns.

    Attributes:
        vector: the approximate solution, detached.
        iterations: the number of matrix-vector products taken.
        residual: for conjugate gradient the norm of the residual divided by that of ``b``; for the Neumann series the
            norm of the last term divided by that of the first.
        breakdown: in words, why the solver is not made for this system; empty where nothing went wrong.
        negative_curvature: the lowest quotient ``p . A p / p . p`` that was met, where it is negative beyond rounding;
            0 where none was.
    """

    vector: list[jt.Var]
    iterations: int
    residual: float
    breakdown: str = ""
    negative_curvature: float = 0.0


def conjugate_gradient(
    product: MatrixVectorProduct, b: Sequence[jt.Var], *, iterations: int, tolerance: float
) -> Solution:
    """Conjugate gradient from zero (Hestenes and Stiefel 1952), for a positive definite A.

    It breaks down where a direction has no positive curvature, ``p . A p <= 0`` to within rounding, where the residual
    has grown beyond recovery, or where the last one is no smaller than ``b``. ``A q = b`` may have no solution then, as
    where an objective does not see some variables. What is returned is the best iterate: the mean of all of them
    weighted by ``1 / ||r_j||^2``, whose residual is the smallest of all their means, because the residuals r_j are
    orthogonal (minimal residual smoothing, Weiss 1994). A residual that grows for a while is no failure: with A
    positive definite it may be far above ``b`` right before the iteration that solves the system.

    Args:
        product: ``v -> A v`` with A symmetric.
        b: the right-hand side.
        iterations: take at most so many.
        tolerance: stop when the residual's norm is at most this fraction of ``b``'s; one below 1e-10, which float32
            cannot tell from none, counts as 1e-10.

    Returns:
        The solution; NaN in ``b`` or in a product stays in it.
    """
    solution = weighted = [jt.zeros_like(v) for v in b]
    scale, residual, square = scaled(b, together_with=solution)
    direction = residual
    start = now = square.item()
    smallest = start * max(tolerance, PRECISION) ** 2 if math.isfinite(start) else math.nan
    # Residuals are orthogonal, which gives the lengths of p and of A p from those of residuals alone.
    length, steepest = start, 0.0  # p . p, and the largest |A p| / |p| so far
    flat = flatness(b)
    weights, taken, breakdown, negative = 1.0, 0, "", 0.0
    while taken < iterations and not now <= smallest:
        image = functional.detached(product(direction))
        curvature = functional.dot(direction, image)
        step = square / curvature
        moved = functional.axpy(step, direction, solution)
        residual = functional.axpy(step, image, residual, factor=-1.0)
        new_square = functional.dot(residual, residual)
        direction = functional.axpy(new_square / square, direction, residual)
        moved, residual, direction, numbers = functional.cut_lists(moved, residual, direction, [new_square, curvature])
        new_square, curvature = numbers
        taken += 1
        curved, then = curvature.item(), new_square.item()
        steepest = max(steepest, math.sqrt((now + then) / length) * curved / now)
        if curved <= flat * steepest * length:
            negative = curved / length if curved < -flat * steepest * length else 0.0
            breakdown = "a direction has negative curvature" if negative else "a direction has no positive curvature"
            break
        if then > start * _LOST**2 or (math.isfinite(curved) and not math.isfinite(then)):
            breakdown = "the residual has grown beyond recovery"
            break
        length = then + (then / now) ** 2 * length
        solution, square, now = moved, new_square, then
        if now > smallest:
            weighted = functional.detached(functional.axpy(start / now, solution, weighted))
            weights += start / now
    if not breakdown and taken and now > 0.99 * start:
        breakdown = STALLED
    if breakdown:
        solution, now = functional.times(1.0 / weights, weighted), start / weights
    if scale != 1.0:
        solution = functional.times(scale, solution)
    relative = math.sqrt(now / start) if start > 0.0 else now
    return Solution(functional.detached(solution), taken, relative, breakdown, negative)


def neumann_series(
    product: MatrixVectorProduct, b: Sequence[jt.Var], *, scales: Sequence[float], terms: int, tolerance: float
) -> Solution:
    """``q = sum_{j=0..terms} (I - S A)^j S b`` with S diagonal (Lorraine, Vicol and Duvenaud 2020).

    Args:
        product: ``v -> A v``.
        b: the right-hand side.
        scales: the diagonal of S, one number per Var of ``b``; the series converges when S A's eigenvalues lie in
            (0, 2).
        terms: the highest power.
        tolerance: stop when a term's norm is at most this fraction of the first one's.

    Returns:
        The partial sum, with a breakdown where its terms grow; NaN in ``b`` or in a product stays in it.
    """
    scale, term, square = scaled([s * v for s, v in zip(scales, b, strict=True)])
    total = term
    start = now = square.item()
    taken = 0
    while taken < terms and not math.sqrt(now) <= tolerance * math.sqrt(start):
        image = product(term)
        moved = (functional.axpy(-s, [i], [t])[0] for t, s, i in zip(term, scales, image, strict=True))
        term = list(moved)
        term, total, (square,) = functional.cut_lists(
            term, functional.axpy(1.0, term, total), [functional.dot(term, term)]
        )
        now = square.item()
        taken += 1
    if scale != 1.0:
        total = functional.detached(functional.times(scale, total))
    breakdown = "the terms of the series grow" if now > start else ""
    return Solution(total, taken, math.sqrt(now / start) if start > 0.0 else now, breakdown)


def from_start(
    solver: Callable[..., Solution],
    product: MatrixVectorProduct,
    b: Sequence[jt.Var],
    start: Sequence[jt.Var],
    *,
    tolerance: float,
    **options: Any,
) -> Solution:
    """Let a solver that begins at zero begin at a vector: it solves for the difference, of ``A d = b - A start``.

    That takes one product. A start that is no better than zero is not used.

    Args:
        solver: :func:`conjugate_gradient`, or another with its arguments.
        product: ``v -> A v``.
        b: the right-hand side.
        start: one Var per Var of ``b``.
        tolerance: relative to ``b``, whatever the start is.
        options: the solver's further arguments.

    Returns:
        The solution, its residual relative to ``b``.
    """
    (residual,) = functional.cut_lists(functional.axpy(-1.0, functional.detached(product(list(start))), b))
    size, left = functional.norm(b), functional.norm(residual)
    if not left < size:
        solution = solver(product, b, tolerance=tolerance, **options)
        return solution._replace(iterations=solution.iterations + 1)
    relative = left / size
    if relative <= tolerance:
        return Solution(functional.detached(start), 1, relative)
    solution = solver(product, residual, tolerance=tolerance / relative, **options)
    if solution.breakdown == STALLED and relative < _NEAR:
        solution = solution._replace(breakdown="")
    return solution._replace(
        vector=functional.cut(functional.axpy(1.0, solution.vector, start)),
        iterations=solution.iterations + 1,
        residual=solution.residual * relative,
    )


def flatness(b: Sequence[jt.Var]) -> float:
    """The share of a matrix's size below which a curvature or a pivot is rounding alone, in the vectors' dtype."""
    return 10.0 * max(float(np.finfo(str(v.dtype)).eps) for v in b)


def scaled(b: Sequence[jt.Var], together_with: Sequence[jt.Var] = ()) -> tuple[float, list[jt.Var], jt.Var]:
    """A number, ``b`` divided by it, and the square of that, which neither overflows nor vanishes; all computed."""
    vector, (square,) = functional.cut_lists(b, [functional.dot(b, b)], together_with=together_with)
    if _SAFE_SQUARES[0] < square.item() < _SAFE_SQUARES[1]:
        return 1.0, vector, square
    size = functional.norm(vector)
    if size == 0.0 or not math.isfinite(size):
        return 1.0, vector, square
    vector = functional.times(1.0 / size, vector)
    vector, (square,) = functional.cut_lists(vector, [functional.dot(vector, vector)])
    return size, vector, square

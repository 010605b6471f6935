"""Solve ``A q = b`` with products ``A v`` alone; vectors are lists of Vars.

Every iteration starts from detached, computed vectors, so that all iterations run the same compiled kernels and the
graph does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

from jboat import functional
import jittor as jt

MatrixVectorProduct = Callable[[list[jt.Var]], list[jt.Var]]


_PRECISION = 1e-10
_UNDERFLOW = 1e-36


class Solution(NamedTuple):
    """What a solver returns.

    Attributes:
        vector: the approximate solution, detached.
        iterations: the number of matrix-vector products taken.
        residual: for conjugate gradient the norm of the residual divided by that of ``b``; for the Neumann series the
            norm of the last term divided by that of ``b``.
    """

    vector: list[jt.Var]
    iterations: int
    residual: float


def conjugate_gradient(
    product: MatrixVectorProduct, b: Sequence[jt.Var], *, iterations: int, tolerance: float
) -> Solution:
    """Conjugate gradient from zero (Hestenes and Stiefel 1952).

    Args:
        product: ``v -> A v`` with A symmetric.
        b: the right-hand side.
        iterations: take at most so many.
        tolerance: stop when the residual's norm is at most this fraction of ``b``'s; one below 1e-10, which float32
            cannot tell from none, counts as 1e-10.

    Returns:
        The solution; NaN in ``b`` or in a product stays in it.
    """
    residual = functional.detached(b)
    solution = [jt.zeros_like(r) for r in residual]
    direction = functional.detached(b)
    square = functional.dot(residual, residual).detach()
    jt.sync([*solution, square])
    start = now = square.item()
    taken = 0
    smallest = max(start * max(tolerance, _PRECISION) ** 2, _UNDERFLOW)
    while taken < iterations and not now <= smallest:
        image = functional.detached(product(direction))
        step = square / functional.dot(direction, image)
        solution = functional.detached(functional.axpy(step, direction, solution))
        residual = functional.detached(functional.axpy(step, image, residual, factor=-1.0))
        new_square = functional.dot(residual, residual)
        direction = functional.detached(functional.axpy(new_square / square, direction, residual))
        square = new_square.detach()
        jt.sync([*solution, *residual, *direction, square])
        now = square.item()
        taken += 1
    return Solution(solution, taken, math.sqrt(now / start) if start > 0.0 else now)


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
        The partial sum; NaN in ``b`` or in a product stays in it.
    """
    term = [s * v.detach() for s, v in zip(scales, b, strict=True)]
    term = functional.detached(term)
    total = term
    square = functional.dot(term, term).detach()
    jt.sync([*term, square])
    start = now = square.item()
    taken = 0
    while taken < terms and not math.sqrt(now) <= tolerance * math.sqrt(start):
        image = product(term)
        moved = (functional.axpy(-s, [i], [t])[0] for t, s, i in zip(term, scales, image, strict=True))
        term = functional.detached(list(moved))
        total = functional.detached(functional.axpy(1.0, term, total))
        square = functional.dot(term, term).detach()
        jt.sync([*term, *total, square])
        now = square.item()
        taken += 1
    return Solution(total, taken, math.sqrt(now / start) if start > 0.0 else now)

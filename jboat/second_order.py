"""Compare a Hessian-vector product with finite differences of the gradient.

Some Jittor operations have a second derivative of zero where it is not zero (max pooling, most subclasses of
``jt.Function``). A hypergradient through them is wrong, and nothing says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

from jboat import autodiff, functional
import jittor as jt
import numpy as np

RADII = (1e-1, 1e-2, 1e-3, 1e-4)
TOLERANCE = 0.2
_NEGLIGIBLE = 1e-5


def disagreement(value: Callable[[Sequence[jt.Var]], jt.Var], y: Sequence[jt.Var]) -> float:
    """How far the Hessian-vector product of ``value`` at y is from a central difference of its gradient.

    One random direction of length 1 is tried, with steps of 0.1 to 0.0001 times the norm of y (at least 1); the
    smallest relative difference counts, since kinks spoil the large steps and rounding the small ones. A Hessian that
    is negligible beside the gradient agrees with anything, and so does NaN, which others report.

    Args:
        value: a scalar function of parameters, called nine times.
        y: leaf Vars.

    Returns:
        ``||difference|| / max(||product||, ||finite difference||)``: 0 for agreement, 1 where one of them is zero.
    """
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=list(v.shape)).astype(np.float32) for v in y]
    length = float(np.sqrt(sum(float((d * d).sum()) for d in draws)))
    direction = [jt.array(d / length) for d in draws]
    gradient = autodiff.grad(value(y), y)
    product = functional.detached(autodiff.vjp(gradient, y, direction))
    jt.sync([*product, *gradient])
    size = float(np.sqrt(functional.dot(gradient, gradient).item()))
    scale = max(1.0, float(np.sqrt(functional.dot(y, y).item())))
    if not math.isfinite(size):
        return 0.0
    found = []
    for radius in RADII:
        step = radius * scale
        sides = []
        for signed in (step, -step):
            moved = functional.detached(functional.axpy(signed, direction, y))
            jt.sync(moved)
            sides.append(functional.detached(autodiff.grad(value(moved), moved)))
            jt.sync(sides[-1])
        difference = [(a - b) / (2.0 * step) for a, b in zip(*sides, strict=True)]
        gap = functional.axpy(-1.0, product, difference)
        norms = [float(np.sqrt(functional.dot(v, v).item())) for v in (gap, product, difference)]
        largest = max(norms[1:])
        if largest * scale <= _NEGLIGIBLE * size:
            return 0.0
        if math.isfinite(largest):
            found.append(norms[0] / largest)
    return min(found, default=0.0)

"""SOBA, SABA, STOCBIO, AMIGO and F2SA by hand in numpy: what jboat's are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy_problems import Array, Batch, Problem

LOWER_STEPS, SOLVER_STEPS = 10, 10
LAMBDA_INIT, LAMBDA_POWER, LAMBDA_MAX = 10.0, 1.0 / 7.0, 1000.0

Path = Iterator[tuple[Array, Array]]
ByHand = Callable[[Problem, list[Batch], list[Batch], float, float], Path]


class _Order:
    """Batches in turn, with their places."""

    def __init__(self, of: list[Batch]) -> None:
        self._of, self._drawn = of, -1

    def next(self) -> tuple[int, Batch]:
        self._drawn = (self._drawn + 1) % len(self._of)
        return self._drawn, self._of[self._drawn]


def soba(p: Problem, lower: list[Batch], upper: list[Batch], lr_y: float, lr_x: float) -> Path:
    """X and y after each step."""
    x, y, v, lowers, uppers = p.x0, p.y0, np.zeros_like(p.y0), _Order(lower), _Order(upper)
    while True:
        _, batch = lowers.next()
        by_y, (hessian_v, mixed_v) = p.lower_by_y(x, y, batch), p.products(x, y, v, batch)
        upper_by_y, upper_by_x = p.upper_gradients(x, y, uppers.next()[1])
        x, y, v = x - lr_x * (upper_by_x - mixed_v), y - lr_y * by_y, v - lr_y * (hessian_v - upper_by_y)
        yield x, y


def saba(p: Problem, lower: list[Batch], upper: list[Batch], lr_y: float, lr_x: float) -> Path:
    """See :func:`soba`."""
    x, y, v, lowers, uppers = p.x0, p.y0, np.zeros_like(p.y0), _Order(lower), _Order(upper)
    seen: list[dict[int, list[Array]]] = [{}, {}]
    means = [[np.zeros_like(a) for a in (y, y, x)], [np.zeros_like(a) for a in (y, x)]]
    while True:
        i, batch = lowers.next()
        j, ul_batch = uppers.next()
        found = [[p.lower_by_y(x, y, batch), *p.products(x, y, v, batch)], [*p.upper_gradients(x, y, ul_batch)]]
        estimates: list[Array] = []
        for level, (place, count) in enumerate(((i, len(lower)), (j, len(upper)))):
            old = seen[level].get(place, [0.0 * g for g in found[level]])
            change = [g - m for g, m in zip(found[level], old, strict=True)]
            estimates += [c + m for c, m in zip(change, means[level], strict=True)]
            means[level] = [m + c / count for c, m in zip(change, means[level], strict=True)]
            seen[level][place] = found[level]
        by_y, hessian_v, mixed_v, upper_by_y, upper_by_x = estimates
        x, y, v = x - lr_x * (upper_by_x - mixed_v), y - lr_y * by_y, v - lr_y * (hessian_v - upper_by_y)
        yield x, y


def stocbio(p: Problem, lower: list[Batch], upper: list[Batch], lr_y: float, lr_x: float) -> Path:
    """See :func:`soba`."""
    x, y, lowers, uppers = p.x0, p.y0, _Order(lower), _Order(upper)
    while True:
        for _ in range(LOWER_STEPS):
            y = y - lr_y * p.lower_by_y(x, y, lowers.next()[1])
        term, upper_by_x = p.upper_gradients(x, y, uppers.next()[1])
        total = term
        for _ in range(SOLVER_STEPS):
            term = term - lr_y * p.products(x, y, term, lowers.next()[1])[0]
            total = total + term
        x = x - lr_x * (upper_by_x - p.products(x, y, lr_y * total, lowers.next()[1])[1])
        yield x, y


def amigo(p: Problem, lower: list[Batch], upper: list[Batch], lr_y: float, lr_x: float) -> Path:
    """See :func:`soba`."""
    x, y, v, lowers, uppers = p.x0, p.y0, np.zeros_like(p.y0), _Order(lower), _Order(upper)
    while True:
        for _ in range(LOWER_STEPS):
            y = y - lr_y * p.lower_by_y(x, y, lowers.next()[1])
        upper_by_y, upper_by_x = p.upper_gradients(x, y, uppers.next()[1])
        for _ in range(SOLVER_STEPS):
            v = v - lr_y * (p.products(x, y, v, lowers.next()[1])[0] - upper_by_y)
        x = x - lr_x * (upper_by_x - p.products(x, y, v, lowers.next()[1])[1])
        yield x, y


def f2sa(p: Problem, lower: list[Batch], upper: list[Batch], lr_y: float, lr_x: float) -> Path:
    """See :func:`soba`."""
    x, y, z, lowers, uppers, k = p.x0, p.y0, p.y0, _Order(lower), _Order(upper), 0
    while True:
        _, batch = lowers.next()
        k += 1
        weight = min(LAMBDA_MAX, LAMBDA_INIT * k**LAMBDA_POWER)
        upper_by_z, upper_by_x = p.upper_gradients(x, z, uppers.next()[1])
        gap = p.lower_by_x(x, z, batch) - p.lower_by_x(x, y, batch)
        by_y, by_z = p.lower_by_y(x, y, batch), p.lower_by_y(x, z, batch) + upper_by_z / weight
        x, y, z = x - lr_x * (upper_by_x + weight * gap), y - lr_y * by_y, z - lr_y * by_z
        yield x, y


BY_HAND: dict[str, ByHand] = {"SOBA": soba, "SABA": saba, "STOCBIO": stocbio, "AMIGO": amigo, "F2SA": f2sa}

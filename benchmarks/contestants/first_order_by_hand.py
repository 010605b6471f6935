"""One step of VFO, PGDO and MESO as one would write it by hand, on arrays of any library that differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from serve import OPTIONS

Vector = list[Any]
Value = Callable[[Vector], Any]


class Library(NamedTuple):
    """What a library does for it.

    Attributes:
        grad: the gradients of a value by some arrays.
        computed: the same arrays as new leaves, computed.
    """

    grad: Callable[[Any, Sequence[Any]], Sequence[Any]]
    computed: Callable[[Vector], Vector]


class Step(NamedTuple):
    """The direction in which x moves, y after the step and, in MESO, theta after it."""

    by_x: Vector
    y: Vector
    theta: Vector


def first_order(
    library: Library, chain: str, number: int, lower: Value, upper: Value, start: Step, *, lower_iters: int, rate: float
) -> Step:
    """Outer step ``number``, from 0, of a problem whose F does not depend on x.

    ``start`` holds x instead of a direction. The formulas are those of Liu et al. (BOME, 2022), Shen and Chen (PBGD,
    2023) and Liu et al. (MEHA, 2024).
    """
    x, y, theta = start
    option = OPTIONS[chain]
    if chain == "MESO":
        scale = 1.0 / (option["c0"] * (number + 1) ** 0.25)
        pulled = zip(theta, y, library.grad(lower(theta), theta), strict=True)
        theta = library.computed([t - option["eta"] * (g + option["gamma_1"] * (t - v)) for t, v, g in pulled])
        gradients = zip(y, theta, library.grad(upper(y), y), library.grad(lower(y), y), strict=True)
        pushed = [v - rate * (scale * a + b - option["gamma_1"] * (v - t)) for v, t, a, b in gradients]
        y = library.computed(pushed)
        sides = zip(library.grad(lower(y), x), library.grad(lower(theta), x), strict=True)
        return Step([a - b for a, b in sides], y, theta)
    above = library.computed(list(library.grad(upper(y), y)))
    value = lower(y)
    here = library.computed(list(library.grad(value, [*y, *x])))
    by_y, by_x = here[: len(y)], here[len(y) :]
    z, gradient = y, by_y
    for inner in range(lower_iters):
        gradient = gradient if inner == 0 else library.grad(lower(z), z)
        z = library.computed([v - option["y_hat_lr"] * g for v, g in zip(z, gradient, strict=True)])
    there = lower(z)
    by_x = [a - b for a, b in zip(by_x, library.grad(there, x), strict=True)]
    if chain == "VFO":
        slope = option["u1"] * (value - there).item() - _dot(above, by_y)
        weight = max(0.0, slope) / (_dot(by_y, by_y) + _dot(by_x, by_x) + 1e-8)
    else:
        share = min(1.0, number / option["gamma_argmax_step"])
        weight = option["gamma_init"] + share * (option["gamma_max"] - option["gamma_init"])
    moved = library.computed([v - rate * (a + weight * b) for v, a, b in zip(y, above, by_y, strict=True)])
    return Step([weight * g for g in by_x], moved, theta)


def _dot(a: Vector, b: Vector) -> float:
    return float(sum((p * q).sum().item() for p, q in zip(a, b, strict=True)))

"""Constraints: what brings a list of Vars back to a set after a step, as ``ll_projection`` and ``ul_projection``.

Each function here makes a projection: a callable that takes a list of Vars, of any number and shapes, and returns the
projected ones. Any other callable of that kind will do. A lower step is differentiated through its projection; where
that has a kink, such as at a bound, the derivative is the one of the side that each function names.

A bound, radius, total or threshold is a number, or a function without arguments that gives a number or a Var, such as
one of the upper model: ``soft_threshold(lambda: 0.1 * ul_model.penalty)``. The hypergradient then goes through it. What
a function gives is held to the same range: a number at once, a Var by a trainer, once the outer step has computed it.
Let ``exp`` or ``sigmoid`` of a parameter keep it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any, TypeAlias

from jboat import functional
from jboat.optim.square_root import square_root
from jboat.projection_levels import Level, Levels, Range
import jittor as jt

__all__ = ["box", "l2_ball", "nonnegative", "simplex", "soft_threshold"]

Projection: TypeAlias = "Callable[[Sequence[jt.Var]], Sequence[jt.Var]]"


def box(low: Level = -math.inf, high: Level = math.inf) -> Projection:
    """Every entry between two bounds, at which the derivative is that of the inside, 1.

    Args:
        low: the lower bound; none by default.
        high: the upper bound; none by default.

    Raises:
        TypeError: if a bound is no number and no function.
        ValueError: if a bound is NaN, or ``low`` is above ``high``.
    """
    levels = Levels("box", {"low": low, "high": high}, {"low": Range(), "high": Range()})

    def projected(v: jt.Var, bottom: float | jt.Var, top: float | jt.Var) -> jt.Var:
        if not _is_infinite(bottom):
            v = jt.where(v < bottom, _filled(bottom, v), v)
        return v if _is_infinite(top) else jt.where(v > top, _filled(top, v), v)

    def project(values: Sequence[jt.Var]) -> list[jt.Var]:
        now = levels.in_force([v.shape for v in values])
        return [projected(v, now["low"], now["high"]) for v in values]

    return _named("box", project)


def nonnegative() -> Projection:
    """Every entry at least 0, where the derivative is 1."""
    return _named("nonnegative", lambda values: [jt.where(v < 0.0, jt.zeros_like(v), v) for v in values])


def soft_threshold(threshold: Level) -> Projection:
    """Every entry nearer to 0 by a threshold, and 0 within it: the proximal step of ``threshold ||y||_1``.

    With the threshold lr times a penalty after steps of rate lr, the lower level is the lasso (ISTA). Where the size of
    an entry is exactly the threshold, the derivative is that of the inside, 0.

    Args:
        threshold: at least 0.

    Raises:
        TypeError: if it is no number and no function.
        ValueError: if it is negative or NaN.
    """
    levels = Levels("soft_threshold", {"threshold": threshold}, {"threshold": Range(least=0.0)})

    def projected(v: jt.Var, given: float | jt.Var) -> jt.Var:
        t = _filled(given, v)
        nearer = jt.where(v > 0.0, v - t, v + t)
        return jt.where(v.abs() <= t, jt.zeros_like(v), nearer)  # in this order, which keeps NaN

    def project(values: Sequence[jt.Var]) -> list[jt.Var]:
        now = levels.in_force([v.shape for v in values])
        return [projected(v, now["threshold"]) for v in values]

    return _named("soft_threshold", project)


def l2_ball(radius: Level = 1.0) -> Projection:
    """All entries of all Vars together in a ball around 0, on whose sphere the derivative is that of the inside.

    Args:
        radius: positive.

    Raises:
        TypeError: if it is no number and no function.
        ValueError: if it is not positive.
    """
    levels = Levels("l2_ball", {"radius": radius}, {"radius": Range(least=0.0, above=True)})

    def project(values: Sequence[jt.Var]) -> list[jt.Var]:
        if not values:
            return []
        size, r = square_root(functional.dot(values, values)), levels.in_force()["radius"]
        outside = size > r
        safe = jt.where(outside, size, jt.ones_like(size))
        factor = jt.where(outside, _filled(r, size) / safe, jt.ones_like(size))
        return [v * factor for v in values]

    return _named("l2_ball", project)


def simplex(total: Level = 1.0) -> Projection:
    """All entries of all Vars together at least 0, with a given sum (Duchi et al. 2008).

    An entry that comes to be exactly 0 has derivative 0.

    Args:
        total: the sum, positive and finite.

    Raises:
        TypeError: if it is no number and no function.
        ValueError: if it is not positive, or infinite.
    """
    levels = Levels("simplex", {"total": total}, {"total": Range(least=0.0, above=True, finite=True)})

    def project(values: Sequence[jt.Var]) -> list[jt.Var]:
        if not values:
            return []
        parts = [v.reshape(-1) for v in values]
        flat = parts[0] if len(parts) == 1 else jt.concat(parts)
        flat = flat - flat.detach().max()  # the same projection, whose sums do not lose the total among large entries
        wanted = _filled(levels.in_force()["total"], flat.sum())
        _, largest_first = jt.argsort(flat.detach(), descending=True)
        excess = jt.cumsum(largest_first) - wanted.detach()
        level = (excess / (jt.arange(flat.numel()) + 1.0)).max()
        inside = flat.detach() > level
        counted = inside.float32()
        count = counted.sum()
        shift = ((flat * counted).sum() - wanted) / count
        left = (flat - shift) * counted
        found, begin = [], 0
        for v in values:
            found.append(left[begin : begin + v.numel()].reshape(v.shape) if len(parts) > 1 else left.reshape(v.shape))
            begin += v.numel()
        return found

    return _named("simplex", project)


def name_of(projection: Projection) -> str:
    """What a projection is called in a message."""
    while isinstance(projection, functools.partial):
        projection = projection.func
    return str(getattr(projection, "__name__", type(projection).__name__))


def applied(projection: Projection, values: Sequence[jt.Var], argument: str) -> list[jt.Var]:
    """What a projection makes of a list of Vars, each of its dtype, with its graph; not computed.

    Args:
        projection: the user's, or one of this module.
        values: one Var per variable.
        argument: what to call it in an error, such as ``"ll_projection"``.

    Raises:
        TypeError: if it returns no list of Vars.
        ValueError: if it returns another number of them, or another shape.
    """
    found: Any = projection(list(values))
    name = f"{argument} ({name_of(projection)})"
    if not isinstance(found, (list, tuple)):
        raise TypeError(f"{name} must return a list of Vars, got {type(found).__name__}")
    if len(found) != len(values):
        raise ValueError(f"{name} must return one Var for each of its {len(values)}, got {len(found)}")
    for i, (after, before) in enumerate(zip(found, values, strict=True)):
        if not isinstance(after, jt.Var):
            raise TypeError(f"{name} must return a list of Vars, got {type(after).__name__} as number {i}")
        if list(after.shape) != list(before.shape):
            raise ValueError(
                f"{name} must keep shapes: number {i} has shape {list(before.shape)}, and came back as "
                f"{list(after.shape)}"
            )
    return functional.of_dtypes(found, values)


def _named(name: str, projection: Projection) -> Projection:
    projection.__name__ = name
    return projection


def _is_infinite(value: float | jt.Var) -> bool:
    return not isinstance(value, jt.Var) and math.isinf(value)


def _filled(value: float | jt.Var, like: jt.Var) -> jt.Var:
    """A number, or a Var of one entry or of the shape, in the shape of another Var."""
    if isinstance(value, jt.Var):
        return value.broadcast(like.shape) if value.numel() == 1 else value
    return jt.ones_like(like) * value

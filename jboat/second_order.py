"""Whether second derivatives of an objective can be trusted.

A Hessian-vector product of the objective is compared with a finite difference of its gradient. Kinks, such as those of
ReLU, make the two differ although the product is right, so that a difference only counts where no kink explains it.
Operations whose gradient was written by hand (``jt.code`` with a gradient source, and subclasses of ``jt.Function``)
often have a second derivative of zero, or a wrong one, and nothing says so: one call of the objective is watched for
them, and where there are any, less evidence is enough. What the differences decide neither way is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
from typing import Any, NamedTuple

from jboat import autodiff, functional
from jboat.backend.replacements import dispatch, hand_written
import jittor as jt
import numpy as np

TOLERANCE = 0.2
RADII = (1e-2, 3e-3, 1e-3, 3e-4)
SMOOTH = 0.02
_ZERO = 1e-3
_ROUNDING = 1e-5


class HandWritten:
    """The operations with a hand-written gradient that ran while :func:`watched` was active.

    Attributes:
        names: each operation once, in the order of first use, as a user would recognise it.
        fatal: those whose second derivative ends the process.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fatal: list[str] = []

    def add(self, name: str, *, fatal: bool = False) -> None:
        """Note one use."""
        for names in (self.names, self.fatal) if fatal else (self.names,):
            if name not in names:
                names.append(name)


class Findings(NamedTuple):
    """What :func:`examined` has found, by the positions of variables.

    Attributes:
        wrong: for each variable whose part of the product is wrong, ``||product - difference|| / ||difference||``.
        undecided: those of which the differences show neither that it is right nor that it is wrong.
    """

    wrong: dict[int, float]
    undecided: list[int]


@contextlib.contextmanager
def watched(found: HandWritten) -> Iterator[None]:
    """Note every operation with a hand-written gradient that this thread calls inside the block, in ``found``.

    jboat's own are no suspects.
    """
    before = {place: dispatch.current(*place) for place in hand_written.PLACES}
    inside: list[str] = []

    def call(self: Any, *args: Any) -> Any:
        if type(self).__module__.startswith("jboat."):
            return before[jt.Function, "__call__"](self, *args)
        found.add(f"{type(self).__name__} (a jt.Function)")
        inside.append(type(self).__name__)
        try:
            return before[jt.Function, "__call__"](self, *args)
        finally:
            inside.pop()

    def coded(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("cpu_grad_src") or kwargs.get("cuda_grad_src"):
            found.add(inside[-1] if inside else "jt.code")
        return before[jt, "code"](*args, **kwargs)

    def numpy_coded(*args: Any, **kwargs: Any) -> Any:
        found.add(inside[-1] if inside else "jt.numpy_code (cumsum, cumprod and jt.linalg)", fatal=True)
        return before[jt, "numpy_code"](*args, **kwargs)

    watching = {(jt.Function, "__call__"): call, (jt, "code"): coded, (jt, "numpy_code"): numpy_coded}
    with dispatch.replaced(watching):
        yield


def examined(value: Callable[[Sequence[jt.Var]], jt.Var], y: Sequence[jt.Var], *, suspicious: bool) -> Findings:
    """Where the Hessian-vector product of ``value`` is not what a central difference of its gradient says.

    One random direction is tried, as long in each variable as the variable itself, with steps of 1% down to 0.03%. A
    variable's part of the product is wrong where it is further than :data:`TOLERANCE` from the differences of two
    neighbouring steps that agree to a quarter of :data:`TOLERANCE`, and the differences on both sides agree to
    :data:`SMOOTH`: across kinks a difference holds curvature that the product rightly has not, and not the same on both
    sides. For a ``suspicious`` objective both sides need not agree, and a part that is less than a thousandth of the
    difference is wrong in any case. A part that is within :data:`TOLERANCE` of the difference at any step is right, and
    what is neither is not decided.

    Parts that rounding could have made are left out, and so is everything where a number is not finite, which others
    report. No smaller step is tried once a variable is found, or once all parts agree.

    Args:
        value: a scalar function of parameters, called three to nine times; it must draw the same random numbers
            every time.
        y: leaf Vars.
        suspicious: whether ``value`` uses operations with a hand-written gradient.

    Returns:
        The variables that disagree, and those that are not decided, of which there are none where any disagrees.
    """
    rng = np.random.default_rng(0)
    direction = []
    for v in y:
        draw = rng.normal(size=list(v.shape)).astype(np.float32)
        size = float(np.sqrt(np.mean(np.square(v.numpy())))) or 1.0
        direction.append(jt.array(size * draw))
    gradient = autodiff.grad(value(y), y)
    jt.sync([*direction, *gradient])
    product = _arrays(autodiff.vjp(gradient, y, direction))
    middle = _arrays(gradient)
    scale = _norm(np.concatenate([g.ravel() for g in middle]))
    found: dict[int, float] = {}
    open_still = set(range(len(y)))
    coarse: list[np.ndarray] | None = None
    for radius in RADII:
        sides = []
        for step in (radius, -radius):
            moved = functional.cut(functional.axpy(step, direction, y))
            sides.append(_arrays(autodiff.grad(value(moved), moved)))
        fine = [(a - b) / (2.0 * radius) for a, b in zip(*sides, strict=True)]
        agreed = set()
        for i, (exact, now, before) in enumerate(zip(product, fine, coarse or fine, strict=True)):
            size = _norm(now)
            if not np.isfinite(size + _norm(exact) + _norm(before) + scale):
                agreed.add(i)
                continue
            if size <= _ROUNDING * scale / radius:
                if _norm(exact) <= _ROUNDING * scale / radius:
                    agreed.add(i)
                continue
            error = _norm(exact - now) / size
            if error <= TOLERANCE:
                agreed.add(i)
            settled = coarse is not None and _norm(before - now) <= 0.25 * TOLERANCE * size
            uneven = _norm(sides[0][i] + sides[1][i] - 2.0 * middle[i]) / (radius * size)
            certain = suspicious or uneven <= SMOOTH
            if (suspicious and _norm(exact) <= _ZERO * size) or (settled and certain and error > TOLERANCE):
                found[i] = error
        open_still -= agreed
        if found or len(agreed) == len(y):
            break
        coarse = fine
    return Findings(found, [] if found else sorted(open_still))


def _arrays(variables: Sequence[jt.Var]) -> list[np.ndarray]:
    return [v.numpy().astype(np.float64) for v in functional.cut(variables)]


def _norm(array: np.ndarray) -> float:
    return float(np.sqrt(np.sum(np.square(array))))

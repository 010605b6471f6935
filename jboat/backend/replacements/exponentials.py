"""Exponentials and what is made of them, computed once.

Jittor fuses them into every kernel that reads them, and computes them again in each. Where such a kernel sums along
rows, g++ makes no vector code of it either.

Jittor differentiates tanh by ``1 / cosh(x)^2``, whose own derivatives are infinity by infinity from an x of 20 or 30 on
in float32. Here the derivative is ``1 - tanh(x)^2``, to any order. It is the one that computes its exponential again:
a result that its own derivative kept would keep itself, and its memory, for ever.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_WHY = "it has a kernel of its own instead of being computed again in every kernel that reads it"
_NAMES = ("exp", "sigmoid", "tanh", "erf")
_JITTORS = {(owner, name): install(owner, name, _WHY) for owner in (jt, jt.Var) for name in _NAMES}


def on_cpu() -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    found = {place: _computed_once(operation) for place, operation in _JITTORS.items()}
    return found | _tanh_by(found[jt, "tanh"])


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    return _tanh_by(_JITTORS[jt, "tanh"])


def _computed_once(operation: Function) -> Function:
    def computed_once(*args: Any, **kwargs: Any) -> jt.Var:
        return operation(*args, **kwargs).stop_fuse()

    return computed_once


def _tanh_by(values: Function) -> dict[Place, Function]:
    def tanh(x: jt.Var) -> jt.Var:
        return _Tanh(x, values)(x)

    return {(owner, "tanh"): tanh for owner in (jt, jt.Var)}


class _Tanh(jt.Function):
    """tanh and its derivative.

    Args:
        x: what it is called with, where derivatives of the derivative lead.
        values: computes tanh.
    """

    def __init__(self, x: jt.Var, values: Function) -> None:
        super().__init__()
        self._x, self._values = x, values

    def execute(self, x: jt.Var) -> jt.Var:
        """Tanh."""
        value: jt.Var = self._values(x)
        return value

    def grad(self, cotangent: jt.Var) -> jt.Var:
        """The product with the derivative."""
        value = _Tanh(self._x, self._values)(self._x)
        return cotangent * (1.0 - value * value)

"""Softmax, differentiable to any order.

Jittor's form for the last dimension on CUDA is derived by hand from what it has saved, so that its second derivative is
wrong; there softmax is what it is on a CPU.
"""

from __future__ import annotations

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.constant_shift import by_constant_shift
from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt
from jittor.other import code_softmax

_WHY = "an operation in C++ on a CPU; the largest entry is a constant; right second derivatives on CUDA"
_JITTORS = {(owner, "softmax"): install(owner, "softmax", _WHY) for owner in (jt.nn, jt.Var)}
_BY_HAND = (code_softmax, "can_softmax_v1")
install(*_BY_HAND, "on CUDA softmax is made of operations that can be derived again")


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    found = {place: by_constant_shift(jittors) for place, jittors in _JITTORS.items()}
    return found if operations is None else dict.fromkeys(found, _by_operations(operations, found[jt.nn, "softmax"]))


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    found = {place: by_constant_shift(jittors) for place, jittors in _JITTORS.items()}
    return found | {_BY_HAND: lambda a, dim: False}


def _by_operations(operations: Operations, other: Function) -> Function:
    def softmax(x: jt.Var, dim: int | None = None, log: bool = False) -> jt.Var:
        if not log and x.dtype == "float32" and x.ndim > 1 and dim in (-1, x.ndim - 1):
            rows = x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))
            p = operations.cross_entropy([rows], "softmax", x.shape[-1])
            return p if x.ndim == 2 else p.reshape(x.shape)
        return other(x, dim, log)

    return softmax

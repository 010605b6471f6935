"""ReLU that keeps NaN, where Jittor's gives 0."""

from __future__ import annotations

from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_float, is_plain
import jittor as jt

_WHY = "an operation in C++ on a CPU, which keeps its result alone for the derivative; NaN stays NaN"
_JITTORS = install(jt.nn, "relu", _WHY)
install(jt.nn.ReLU, "execute", _WHY)


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    other = _keeping_nan(_JITTORS)

    def relu(x: jt.Var) -> jt.Var:
        return other(x) if operations is None or not is_plain(x) else operations.rectified([x])

    return {(jt.nn, "relu"): relu, (jt.nn.ReLU, "execute"): lambda layer, x: relu(x)}


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    relu = _keeping_nan(_JITTORS)
    return {(jt.nn, "relu"): relu, (jt.nn.ReLU, "execute"): lambda layer, x: relu(x)}


def _keeping_nan(relu: Function) -> Function:
    """``relu`` with NaN for NaN, in its derivatives as well."""

    def keeping_nan(x: Any) -> jt.Var:
        if not isinstance(x, jt.Var) or not is_float(x):
            return relu(x)
        constant = x.detach()
        is_nan = constant.isnan()
        passed = jt.ternary_out_hint((constant > 0.0) | is_nan, x, 0.0)
        return passed * jt.ternary_out_hint(is_nan, constant, 1.0)

    return keeping_nan

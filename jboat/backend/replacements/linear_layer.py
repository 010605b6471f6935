"""Linear layers, with their bias, as one operation.

Jittor's kernels for the bias, its gradient, a sum of columns, and what that adds to second derivatives use one core,
and take a tenth of the time of the product before it.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_matrix, is_plain
import jittor as jt

_WHY = "one operation in C++ on a CPU, which adds the bias on all cores; in half with the `precision` bf16 or fp16"
_FUNCTION, _LAYER = (jt.nn, "linear"), (jt.nn.Linear, "execute")
JITTORS = {place: install(*place, _WHY) for place in (_FUNCTION, _LAYER)}
"""Jittor's functions by place."""


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    if operations is None:
        return {}

    def with_bias(x: jt.Var, weight: jt.Var, bias: Any) -> jt.Var | None:
        matrices = is_matrix(x) and is_matrix(weight) and x.shape[1] == weight.shape[1]
        if matrices and is_plain(bias) and list(bias.shape) == [weight.shape[0]]:
            return operations.linear(x, weight, bias)
        return None

    def linear(x: jt.Var, weight: jt.Var, bias: Any = None) -> jt.Var:
        found = with_bias(x, weight, bias)
        return JITTORS[_FUNCTION](x, weight, bias) if found is None else found

    def layer(self: jt.nn.Linear, x: jt.Var) -> jt.Var:
        found = with_bias(x, self.weight, self.bias)
        return JITTORS[_LAYER](self, x) if found is None else found

    return {_FUNCTION: linear, _LAYER: layer}

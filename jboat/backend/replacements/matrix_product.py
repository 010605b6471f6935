"""Products of two matrices whose derivatives are such products again.

Jittor writes a product as a sum over a three-dimensional product, which it hands to oneDNN or cuBLAS where it
recognises it. In a second derivative it adds up the contributions to a factor before it sums, recognises nothing, and
runs a plain loop.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_matrix
import jittor as jt

_WHY = (
    "one operation, whose derivatives are products again, in C++ on a CPU and cuBLAS's batched product on CUDA; in "
    "half with the `precision` bf16 or fp16"
)
_PLACES = ((jt, "matmul"), (jt.nn, "matmul"), (jt.Var, "matmul"), (jt.Var, "__matmul__"))
_TRANSPOSED = (jt.nn, "matmul_transpose")
JITTORS = {place: install(*place, _WHY) for place in (*_PLACES, _TRANSPOSED)}
"""Jittor's functions by place."""


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    if operations is None:
        return {}
    other, other_transposed = JITTORS[jt.nn, "matmul"], JITTORS[_TRANSPOSED]

    def matmul(a: jt.Var, b: jt.Var) -> jt.Var:
        if is_matrix(a) and is_matrix(b) and a.shape[1] == b.shape[0]:
            return operations.matrix_product(a, b)
        return other(a, b)

    def matmul_transpose(a: jt.Var, b: jt.Var) -> jt.Var:
        if is_matrix(a) and is_matrix(b) and a.shape[1] == b.shape[1]:
            return operations.matrix_product(a, b, trans_b=True)
        return other_transposed(a, b)

    return {**dict.fromkeys(_PLACES, matmul), _TRANSPOSED: matmul_transpose}


def on_cuda(multiply: Function) -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place.

    Args:
        multiply: the product of each pair of matrices of two Vars ``[b, n, m]`` and ``[b, m, k]``; its third and fourth
            argument tell whether the first and the second are transposed.
    """
    other, other_transposed = JITTORS[jt.nn, "matmul"], JITTORS[_TRANSPOSED]

    def matmul(a: jt.Var, b: jt.Var) -> jt.Var:
        if _are_matrices(a, b) and a.shape[1] == b.shape[0]:
            return multiply(_batch(a), _batch(b), False, False).reshape((a.shape[0], b.shape[1]))
        return other(a, b)

    def matmul_transpose(a: jt.Var, b: jt.Var) -> jt.Var:
        if _are_matrices(a, b) and a.shape[1] == b.shape[1]:
            return multiply(_batch(a), _batch(b), False, True).reshape((a.shape[0], b.shape[0]))
        return other_transposed(a, b)

    return {**dict.fromkeys(_PLACES, matmul), _TRANSPOSED: matmul_transpose}


def _are_matrices(a: Any, b: Any) -> bool:
    both = isinstance(a, jt.Var) and isinstance(b, jt.Var) and a.ndim == b.ndim == 2
    return both and a.dtype == b.dtype and a.dtype in ("float32", "float64") and not jt.flags.amp_reg


def _batch(a: jt.Var) -> jt.Var:
    return a.reshape((1, *a.shape))

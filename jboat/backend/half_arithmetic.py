"""Products of matrices in half precision: of factors rounded to 16 bits, summed in float32, and rounded once more.

That is what a GPU's tensor cores compute, and what cuBLAS gives Jittor with ``use_tensorcore`` 0. The derivatives of
such a product are such products, of a cotangent rounded likewise.

Jittor on a CPU has both types, and neither is of use: products are plain loops, 18 to 1200 times slower than in
float32, that also sum in 16 bits, and its bfloat16 cuts digits off where a GPU rounds to the nearest. :func:`emulated`
computes there what a GPU would, in float32 with the same roundings; only where a second derivative adds up what reaches
a half number from two products it rounds once less. It is for tests and for measuring errors, and slower than float32.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Literal, NamedTuple

from jboat.backend import cpu_ops
from jboat.backend.replacements import matrix_product
from jboat.backend.replacements.dispatch import Function
import jittor as jt

HalfKind = Literal["bf16", "fp16"]

JITTORS_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
"""The types of numbers by the precision's name."""

EMULATION = "JBOAT_EMULATE_HALF"
"""The environment variable that lets tests and benchmarks run half precision on a CPU, emulated; not for training."""


class HalfArithmetic(NamedTuple):
    """How numbers become half, and what is computed with them.

    Attributes:
        halved: a float32 Var as the product's factor, however that is stored; one that is a factor stays as it is.
        multiply: cuBLAS's batched product of two factors ``[b, n, m]`` and ``[b, m, k]``, whose third and fourth
            argument tell whether the first and the second are transposed.
        widened: what ``multiply`` gives as float32.
    """

    halved: Callable[[jt.Var], jt.Var]
    multiply: Function
    widened: Callable[[jt.Var], jt.Var]

    def product(self, a: jt.Var, b: jt.Var, trans_a: bool = False, trans_b: bool = False) -> jt.Var:
        """The product of two float32 Vars as ``multiply`` takes them, in half, as float32."""
        return self.widened(self.multiply(self.halved(a), self.halved(b), trans_a, trans_b))


def on_cuda(kind: HalfKind) -> HalfArithmetic:
    """The arithmetic of a GPU, by cuBLAS."""
    dtype = JITTORS_NAMES[kind]
    return HalfArithmetic(
        halved=lambda a: a if a.dtype == dtype else a.cast(dtype),
        multiply=jt.compile_extern.cublas_ops.cublas_batched_matmul,
        widened=lambda a: a.float32(),
    )


def emulated(kind: HalfKind) -> HalfArithmetic:
    """The same numbers on a CPU, held in float32."""
    rounded = _to_float16 if kind == "fp16" else _to_bfloat16

    def multiply(a: jt.Var, b: jt.Var, trans_a: bool, trans_b: bool) -> jt.Var:
        return rounded(_batched_product(a, b, trans_a, trans_b))

    return HalfArithmetic(halved=rounded, multiply=multiply, widened=lambda a: a)


def is_emulated() -> bool:
    """Whether half precision is to be emulated on a CPU."""
    return os.environ.get(EMULATION) == "1"


def _to_float16(a: jt.Var) -> jt.Var:
    return a.float16().float32()  # the derivative of a cast is a cast, which rounds as well


def _to_bfloat16(a: jt.Var) -> jt.Var:
    return _nearest_bfloat16(a) if a.is_stop_grad() or jt.flags.no_grad else _ToBfloat16()(a)


class _ToBfloat16(jt.Function):
    """The nearest numbers of bfloat16, whose derivative rounds the cotangent likewise."""

    def execute(self, a: jt.Var) -> jt.Var:
        """The numbers."""
        return _nearest_bfloat16(a)

    def grad(self, cotangent: jt.Var) -> jt.Var:
        """The rounded cotangent, which has the same derivative."""
        return _to_bfloat16(cotangent)


def _nearest_bfloat16(a: jt.Var) -> jt.Var:
    """In float32; ties go to the even one, as on a GPU, and NaN stays NaN."""
    source = """
        for (int64 i = 0; i < in0->num; i++) {
            unsigned bits;
            memcpy(&bits, in0_p + i, 4);
            if ((bits & 0x7fffffff) > 0x7f800000) bits |= 0x400000;
            else bits += 0x7fff + ((bits >> 16) & 1);
            bits &= 0xffff0000;
            memcpy(out0_p + i, &bits, 4);
        }"""
    return jt.code(a.shape, a.dtype, [a], cpu_header="#include <cstring>", cpu_src=source)


def _batched_product(a: jt.Var, b: jt.Var, trans_a: bool, trans_b: bool) -> jt.Var:
    """What cuBLAS's batched product computes, in float32 by jboat's product where it can."""
    operations = cpu_ops.load()
    if operations is not None and a.shape[0] == 1:
        found = operations.matrix_product(a.reshape(a.shape[1:]), b.reshape(b.shape[1:]), trans_a, trans_b)
        return found.reshape((1, *found.shape))
    a = a.transpose((0, 2, 1)) if trans_a else a
    b = b.transpose((0, 2, 1)) if trans_b else b
    return matrix_product.JITTORS[jt.nn, "matmul"](a, b)

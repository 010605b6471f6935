"""Products of matrices, linear layers and convolutions of images in half precision, with float32 around them.

What comes in is rounded right before the product, what comes out is float32 again, and a bias is added in float32.
Convolutions are products with the patches of the images, on a GPU with cuDNN as well: Jittor's own would have cuDNN sum
in float16 itself, asks for sums in bfloat16, which cuDNN has not, and takes over the algorithm found for float32.
Whatever is not a Var of float32 is left to Jittor, and so are convolutions of volumes and transposed ones.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.half_arithmetic import HalfArithmetic
from jboat.backend.replacements import convolution, linear_layer, matrix_product
from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt
import numpy as np

_BATCHED_TRANSPOSED = ((jt, "bmm_transpose"), (jt.nn, "bmm_transpose"))
_WHY = "in half with the `precision` bf16 or fp16"
_JITTORS = {
    **matrix_product.JITTORS,
    **linear_layer.JITTORS,
    **convolution.JITTORS,
    **{place: install(*place, _WHY) for place in _BATCHED_TRANSPOSED},
}


def in_half(arithmetic: HalfArithmetic) -> dict[Place, Function]:
    """The functions that run while a trainer's objectives do, by place.

    Args:
        arithmetic: how a product is computed.
    """
    product = arithmetic.product

    def matmul(a: Any, b: Any) -> jt.Var:
        if not _are_float32(a, b) or a.shape[-1] != b.shape[max(b.ndim - 2, 0)] or (a.ndim == 1 and b.ndim > 2):
            return _JITTORS[jt.nn, "matmul"](a, b)
        shape = [*a.shape[:-1], *b.shape[max(b.ndim - 1, 1) :]] or [1]
        if b.ndim <= 2:
            return product(_rows(a), b.reshape((1, b.shape[0], -1))).reshape(shape)
        batch = np.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
        a, b = (_as_batch(factor, batch) for factor in (a, b))
        return product(a, b).reshape((*batch, a.shape[1], b.shape[2]))

    def matmul_transpose(a: Any, b: Any) -> jt.Var:
        if not _are_float32(a, b) or b.ndim != 2 or a.shape[-1] != b.shape[1]:
            return _JITTORS[jt.nn, "matmul_transpose"](a, b)
        return product(_rows(a), b.reshape((1, *b.shape)), False, True).reshape((*a.shape[:-1], b.shape[0]))

    def bmm_transpose(a: Any, b: Any) -> jt.Var:
        fits = _are_float32(a, b) and a.ndim == b.ndim > 2 and a.shape[:-2] == b.shape[:-2]
        if not fits or a.shape[-1] != b.shape[-1]:
            return _JITTORS[jt.nn, "bmm_transpose"](a, b)
        batch = tuple(a.shape[:-2])
        found = product(_as_batch(a, batch), _as_batch(b, batch), False, True)
        return found.reshape((*batch, *found.shape[1:]))

    def linear(x: Any, weight: jt.Var, bias: Any = None) -> jt.Var:
        y = matmul_transpose(x, weight)
        return y if bias is None else y + bias

    def layer(self: jt.nn.Linear, x: Any) -> jt.Var:
        return linear(x, self.weight, self.bias)

    found: dict[Place, Function] = {
        **dict.fromkeys(matrix_product.JITTORS, matmul),
        **dict.fromkeys(_BATCHED_TRANSPOSED, bmm_transpose),
        (jt.nn, "matmul_transpose"): matmul_transpose,
        (jt.nn, "linear"): linear,
        (jt.nn.Linear, "execute"): layer,
    }
    convolutions = convolution.on_cuda_without_cudnn(product, stored=arithmetic.halved)
    return found | {place: _of_float32(place, function) for place, function in convolutions.items()}


def _of_float32(place: Place, convolve: Function) -> Function:
    """A convolution for images and kernels of float32 alone; others are Jittor's."""

    def convolved(x: Any, weight: Any, *args: Any, **kwargs: Any) -> jt.Var:
        return (convolve if _are_images(x, weight) else _JITTORS[place])(x, weight, *args, **kwargs)

    def layer(self: jt.nn.Conv, x: Any) -> jt.Var:
        return (convolve if _are_images(x, self.weight) else _JITTORS[place])(self, x)

    return layer if place == (jt.nn.Conv, "execute") else convolved


def _are_images(x: Any, weight: Any) -> bool:
    return _are_float32(x, weight) and x.ndim == weight.ndim == 4


def _are_float32(*factors: Any) -> bool:
    return all(isinstance(v, jt.Var) and v.dtype == "float32" for v in factors)


def _rows(a: jt.Var) -> jt.Var:
    return a.reshape((1, -1, a.shape[-1]))


def _as_batch(a: jt.Var, batch: tuple[int, ...]) -> jt.Var:
    """``[..., n, m]`` as ``[b, n, m]``, repeated along those of the axes before n that are 1."""
    n, m = a.shape[-2:]
    if tuple(a.shape[:-2]) != batch:
        a = a.reshape((*[1] * (len(batch) + 2 - a.ndim), *a.shape)).expand(*batch, n, m)
    return a.reshape((-1, n, m))

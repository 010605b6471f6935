"""Jittor operations in forms that have right, quick derivatives of every order on a GPU.

Four operations that Jittor has for CUDA alone are derived by hand from what they have saved, so that their second
derivative is wrong or missing: softmax and log_softmax over the last dimension, depthwise convolutions, and cuDNN's
recurrent layers, which cuDNN 9 does not have at all. Here they are what they are on a CPU, made of operations that can
be derived again.

Products of matrices are sums over a three-dimensional product, which Jittor hands to cuBLAS where it recognises them;
in second derivatives it does not, and runs a plain loop. Here they are cuBLAS's batched product, a batch of one, whose
derivatives are such products. Without cuDNN a convolution is a plain loop too: here it is a product with the patches
of the images.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any, TypeAlias

from jboat.backend import replaced_functions
import jittor as jt
from jittor import nn
from jittor.depthwise_conv import DepthwiseConv
from jittor.other import code_softmax

Function: TypeAlias = "Callable[..., jt.Var]"

_JITTORS = replaced_functions.originals(
    (code_softmax, "can_softmax_v1"),
    (DepthwiseConv, "__call__"),
    (nn.RNNBase, "execute"),
    (nn, "matmul"),
    (nn, "matmul_transpose"),
)
_cudnn_lock = threading.RLock()


def replacements() -> dict[tuple[Any, str], Function]:
    """Functions by owner and name, for graphs that are built with ``use_cuda``."""
    found: dict[tuple[Any, str], Function] = {
        (code_softmax, "can_softmax_v1"): lambda a, dim: False,
        (DepthwiseConv, "__call__"): _depthwise,
        (nn.RNNBase, "execute"): _without_cudnn(_JITTORS[nn.RNNBase, "execute"]),
    }
    cublas = getattr(jt.compile_extern, "cublas_ops", None)  # without CUDA Jittor does not set it
    if cublas:
        multiply = cublas.cublas_batched_matmul
        found |= products(multiply)
        if not jt.cudnn:
            found |= convolutions(multiply)
    return found


def products(multiply: Function) -> dict[tuple[Any, str], Function]:
    """Products of two matrices by a batched product, functions by owner and name.

    Args:
        multiply: the product of each pair of matrices of two Vars ``[b, n, m]`` and ``[b, m, k]``; its third and fourth
            argument tell whether the first and the second are transposed.
    """
    other, other_transposed = _JITTORS[nn, "matmul"], _JITTORS[nn, "matmul_transpose"]

    def matmul(a: jt.Var, b: jt.Var) -> jt.Var:
        if _are_matrices(a, b) and a.shape[1] == b.shape[0]:
            return multiply(_batch(a), _batch(b), False, False).reshape((a.shape[0], b.shape[1]))
        return other(a, b)

    def matmul_transpose(a: jt.Var, b: jt.Var) -> jt.Var:
        if _are_matrices(a, b) and a.shape[1] == b.shape[1]:
            return multiply(_batch(a), _batch(b), False, True).reshape((a.shape[0], b.shape[0]))
        return other_transposed(a, b)

    return {
        **{(owner, "matmul"): matmul for owner in (jt, nn, jt.Var)},
        (jt.Var, "__matmul__"): matmul,
        (nn, "matmul_transpose"): matmul_transpose,
    }


def convolutions(multiply: Function) -> dict[tuple[Any, str], Function]:
    """Convolutions of images as batched products, functions by owner and name; ``multiply`` is that of `products`."""

    def conv2d(
        x: jt.Var,
        weight: jt.Var,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> jt.Var:
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        n, channels, *size = x.shape
        out, per_group, *kernel = weight.shape
        strides, paddings, dilations = _pair(stride), _pair(padding), _pair(dilation)
        height, width = (
            (length + 2 * p - (k - 1) * d - 1) // s + 1
            for length, k, s, p, d in zip(size, kernel, strides, paddings, dilations, strict=True)
        )
        patches = x.reindex(
            [channels, *kernel, n, height, width],
            [
                "i3",
                "i0",
                f"i4*{strides[0]}-{paddings[0]}+i1*{dilations[0]}",
                f"i5*{strides[1]}-{paddings[1]}+i2*{dilations[1]}",
            ],
        ).reshape((groups, per_group * kernel[0] * kernel[1], n * height * width))
        rows = weight.reshape((groups, out // groups, per_group * kernel[0] * kernel[1]))
        y = multiply(rows, patches, False, False).reshape((out, n, height, width)).transpose((1, 0, 2, 3))
        return y if bias is None else y + bias.broadcast(y.shape, [0, 2, 3])

    def layer(self: nn.Conv, x: jt.Var) -> jt.Var:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    return {(nn, "conv2d"): conv2d, (nn, "conv"): conv2d, (nn.Conv, "execute"): layer}


def _depthwise(layer: DepthwiseConv, x: jt.Var, weight: jt.Var) -> jt.Var:
    return nn.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, x.shape[1])


def _without_cudnn(execute: Function) -> Function:
    def recurrent(*args: Any, **kwargs: Any) -> Any:
        with _cudnn_lock:
            cudnn, jt.cudnn = jt.cudnn, None
            try:
                return execute(*args, **kwargs)
            finally:
                jt.cudnn = cudnn

    return recurrent


def _are_matrices(a: Any, b: Any) -> bool:
    both = isinstance(a, jt.Var) and isinstance(b, jt.Var) and a.ndim == b.ndim == 2
    return both and a.dtype == b.dtype and a.dtype in ("float32", "float64") and not jt.flags.amp_reg


def _batch(a: jt.Var) -> jt.Var:
    return a.reshape((1, *a.shape))


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)

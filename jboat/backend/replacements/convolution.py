"""Convolutions of images without plain loops.

On a CPU Jittor plans a convolution anew every time and copies its result. Without cuDNN it is a plain loop on a GPU:
here it is a product with the patches of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.dispatch import Function, Place, install
from jboat.backend.replacements.plain_arrays import is_plain
import jittor as jt

_WHY = (
    "one operation in C++ on a CPU, with its bias; on CUDA without cuDNN, and in half with the `precision` bf16 or "
    "fp16, a product with the patches of the images"
)
_FUNCTIONS = ((jt.nn, "conv2d"), (jt.nn, "conv"))
_LAYER = (jt.nn.Conv, "execute")
JITTORS = {place: install(*place, _WHY) for place in (*_FUNCTIONS, _LAYER)}
"""Jittor's functions by place."""
_MOST_OF_C = 2**31  # which C++'s integers do not reach


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    if operations is None:
        return {}

    def convolved(x: jt.Var, weight: jt.Var, bias: Any, *sizes: Any, groups: int) -> jt.Var | None:
        pairs = [side for size in sizes for side in (size if isinstance(size, tuple | list) else (size, size))]
        if groups != 1 or not _can_convolve(x, weight, bias, *pairs):
            return None
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return operations.convolution(inputs, "convolved", [*x.shape[2:], *weight.shape[2:], *pairs])

    def conv2d(
        x: jt.Var,
        weight: jt.Var,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> jt.Var:
        found = convolved(x, weight, bias, stride, padding, dilation, groups=groups)
        other = JITTORS[_FUNCTIONS[0]]
        return other(x, weight, bias, stride, padding, dilation, groups) if found is None else found

    def layer(self: jt.nn.Conv, x: jt.Var) -> jt.Var:
        sizes = (self.stride, self.padding, self.dilation)
        found = convolved(x, self.weight, self.bias, *sizes, groups=self.groups)
        return JITTORS[_LAYER](self, x) if found is None else found

    return {**dict.fromkeys(_FUNCTIONS, conv2d), _LAYER: layer}


def on_cuda_without_cudnn(
    multiply: Function, *, stored: Callable[[jt.Var], jt.Var] = lambda patches: patches
) -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place.

    Args:
        multiply: as in :func:`matrix_product.on_cuda`.
        stored: what patches, the largest array, are made into before anything is kept of them.
    """

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
        windows = x.reindex(
            [channels, *kernel, n, height, width],
            [
                "i3",
                "i0",
                f"i4*{strides[0]}-{paddings[0]}+i1*{dilations[0]}",
                f"i5*{strides[1]}-{paddings[1]}+i2*{dilations[1]}",
            ],
        )
        patches = stored(windows).reshape((groups, per_group * kernel[0] * kernel[1], n * height * width))
        rows = weight.reshape((groups, out // groups, per_group * kernel[0] * kernel[1]))
        y = multiply(rows, patches, False, False).reshape((out, n, height, width)).transpose((1, 0, 2, 3))
        return y if bias is None else y + bias.broadcast(y.shape, [0, 2, 3])

    def layer(self: jt.nn.Conv, x: jt.Var) -> jt.Var:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    return {**dict.fromkeys(_FUNCTIONS, conv2d), _LAYER: layer}


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _can_convolve(x: jt.Var, weight: jt.Var, bias: Any, *sizes: Any) -> bool:
    variables = [x, weight] if bias is None else [x, weight, bias]
    if not all(is_plain(v) for v in variables) or x.ndim != 4 or weight.ndim != 4:
        return False
    if x.shape[1] != weight.shape[1] or (bias is not None and list(bias.shape) != [weight.shape[0]]):
        return False
    if len(sizes) != 6 or not all(type(size) is int and size < _MOST_OF_C for size in sizes):
        return False
    stride, padding, dilation = sizes[:2], sizes[2:4], sizes[4:]
    return all(
        s >= 1 and p >= 0 and d >= 1 and n + 2 * p >= (k - 1) * d + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    )

"""All replacements together, for a CPU and for CUDA; importing this module puts their dispatchers in place."""

from __future__ import annotations

import functools

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements import (
    channels,
    conditionals,
    convolution,
    cross_entropy,
    depthwise_convolution,
    differences,
    exponentials,
    hand_written,
    large_arguments,
    linear_layer,
    matrix_product,
    mean,
    module_call,
    pooling,
    random_numbers,
    recurrent,
    relu,
    softmax,
)
from jboat.backend.replacements.dispatch import Function, Place
import jittor as jt

__all__ = ["differences", "hand_written", "mean", "module_call", "on_cpu", "on_cuda", "random_numbers"]


@functools.cache
def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place.

    Args:
        operations: those in C++, where there are any.
    """
    found = conditionals.on_cpu() | exponentials.on_cpu() | pooling.everywhere() | large_arguments.everywhere()
    for room in (softmax, cross_entropy, relu, matrix_product, linear_layer, channels, convolution):
        found |= room.on_cpu(operations)
    return found


@functools.cache
def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    found = softmax.on_cuda() | cross_entropy.on_cuda() | relu.on_cuda() | pooling.everywhere()
    found |= depthwise_convolution.on_cuda() | recurrent.on_cuda() | exponentials.on_cuda()
    found |= large_arguments.everywhere()
    cublas = getattr(jt.compile_extern, "cublas_ops", None)  # without CUDA Jittor does not set it
    if cublas:
        multiply = cublas.cublas_batched_matmul
        found |= matrix_product.on_cuda(multiply)
        if not jt.cudnn:
            found |= convolution.on_cuda_without_cudnn(multiply)
    return found

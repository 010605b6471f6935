"""Depthwise convolutions on CUDA, which Jittor derives by hand and cannot derive again."""

from __future__ import annotations

from jboat.backend.replacements import hand_written  # noqa: F401  (first: its dispatcher is what is inherited)
from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt
from jittor.depthwise_conv import DepthwiseConv

_PLACE = (DepthwiseConv, "__call__")
install(*_PLACE, "on CUDA it is a convolution with groups, which can be derived again")


def on_cuda() -> dict[Place, Function]:
    """The functions that run inside a block on CUDA, by place."""
    return {_PLACE: _by_groups}


def _by_groups(layer: DepthwiseConv, x: jt.Var, weight: jt.Var) -> jt.Var:
    return jt.nn.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, x.shape[1])

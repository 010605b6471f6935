"""One number a channel, in every place of a batch of images.

Jittor's kernel for the derivative, a sum over images and places, has no vector code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat.backend.cpu_ops import Operations
from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_PLACE = (jt.Var, "broadcast")
_JITTORS = install(*_PLACE, "what is broadcast to the channels of images is an operation in C++ on a CPU")
_MOST_OF_C = 2**31  # which C++'s integers do not reach


def on_cpu(operations: Operations | None) -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    if operations is None:
        return {}

    def broadcast(x: jt.Var, shape: Any, dims: Sequence[int] = ()) -> jt.Var:
        wanted = shape.shape if isinstance(shape, jt.Var) else shape
        of_channels = x.ndim == 1 and len(wanted) == 4 and x.shape[0] == wanted[1] and tuple(dims) == (0, 2, 3)
        if of_channels and x.dtype == "float32" and all(0 <= size < _MOST_OF_C for size in wanted):
            return operations.channels(x, wanted[0], *wanted[2:])
        return _JITTORS(x, shape, dims)

    return {_PLACE: broadcast}

"""Jittor operations in forms whose gradients run fast, and are right to any order."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from jboat.backend import cpu_ops
from jboat.backend.replacements import by_device, dispatch
import jittor as jt


@contextlib.contextmanager
def fast_gradients() -> Iterator[None]:
    """Let operations of Jittor build graphs whose gradients are fast, inside the block.

    ``fit``, ``hypergradient`` and ``evaluate`` of the trainer run in such a block, which may be nested. The
    operations in C++ take float32 alone, and products of matrices alone; on a GPU other operations are
    replaced; :mod:`jboat.backend.replacements` has them all. Several threads may run such blocks at once; other
    threads keep Jittor's operations. A function that was put in the place of one of Jittor's is used.
    """
    with dispatch.replaced(by_device.on_cuda() if jt.flags.use_cuda else by_device.on_cpu(cpu_ops.load())):
        yield

"""Whether the arrays of batches become float32, as Jittor has it, or float64, as a model in float64 needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import threading

import jittor as jt


class _Width(threading.local):
    wide = False


_width = _Width()


@contextmanager
def as_wide_as(variables: Sequence[jt.Var]) -> Iterator[None]:
    """Let floating-point arrays become float64 inside the block where all these variables are; else float32.

    Jittor multiplies no matrices of different types, which it says in the words of a compiler.
    """
    before = _width.wide
    _width.wide = all(v.dtype == "float64" for v in variables)
    try:
        yield
    finally:
        _width.wide = before


def are_wide() -> bool:
    """Whether they become float64 in this thread."""
    return _width.wide

"""Whether an objective is called on trial: to rebuild, check or choose, and not as what the outer step is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading


class _Depth(threading.local):
    value = 0


_depth = _Depth()


@contextmanager
def on_trial() -> Iterator[None]:
    """Let calls inside the block, which may be nested, count for no metric that an objective logs."""
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1


def are_on_trial() -> bool:
    """Whether this thread is in such a block."""
    return _depth.value > 0

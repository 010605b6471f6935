"""Numbers as Jittor's operations and those in C++ take them: Python's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

_PYTHONS = (float, int, bool)


def plain(value: Any) -> Any:
    """``value`` with Python's numbers in place of numpy's: of a scalar, an array of one entry, or a tuple of these."""
    if type(value) in _PYTHONS:
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item() if value.size == 1 else value
    return tuple(map(plain, value)) if type(value) is tuple else value


@contextmanager
def plain_inside(holders: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Let dicts hold Python's numbers inside the block, and what they held before after it."""
    replaced = [
        (holder, name, value)
        for holder in holders
        for name, value in holder.items()
        if isinstance(value, (np.generic, np.ndarray, tuple))
    ]
    for holder, name, value in replaced:
        holder[name] = plain(value)
    try:
        yield
    finally:
        for holder, name, value in replaced:
            holder[name] = value

"""Values that were read from a checkpoint, which may come from anyone, beside those that are there."""

from __future__ import annotations

import math
from typing import Any

LARGEST = 2**53  # the last of the integers that a float holds exactly


def same_kind(value: Any, live: Any, *, infinite: bool = False) -> bool:
    """Whether a value may stand where ``live`` does.

    Args:
        value: a number, string, None, or a list of them.
        live: what is there now. For a number there may be another one, for None a number, for a list one of its
            length, for a string or a bool one of its type.
        infinite: whether a number may be infinite; else it may if it is the same one.
    """
    if isinstance(live, (list, tuple)):
        if not isinstance(value, list) or len(value) != len(live):
            return False
        return all(same_kind(v, w, infinite=infinite) for v, w in zip(value, live, strict=True))
    if isinstance(live, (bool, str)):
        return type(value) is type(live)
    if live is None and value is None:
        return True
    if type(live) is int:
        return type(value) in (int, float) and abs(value) <= LARGEST
    if type(value) is int:
        return abs(value) <= LARGEST
    return type(value) is float and (math.isfinite(value) or value == live or (infinite and not math.isnan(value)))


def is_count(value: Any) -> bool:
    """Whether a value is a number of things."""
    return type(value) is int and 0 <= value <= LARGEST

"""Check what callbacks and the trainer are given, before anything runs."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np


def integer(name: str, value: Any) -> int:
    """Require a whole number.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        TypeError: if it is no integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value)


def count(name: str, value: Any) -> int:
    """Require an integer of at least 1.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def number(name: str, value: Any) -> float:
    """Require a number, which may be infinite or NaN; an array with one entry counts as one.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        TypeError: if it is no number.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Require a number above 0.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not positive.
    """
    if not number(name, value) > 0.0:
        raise ValueError(f"{name} must be positive, got {value}")
    return number(name, value)


def at_least_zero(name: str, value: Any) -> float:
    """Require a number of at least 0.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is negative.
    """
    if not number(name, value) >= 0.0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return number(name, value)


def scheduled(place: str, value: Any) -> float:
    """Require that a schedule has given a number, or what turns into one, such as a Var.

    Args:
        place: which schedule, and where it stands.
        value: what it gave.

    Raises:
        TypeError: if it is none.
    """
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{place}: the schedule must give a number, got {value!r}") from error

"""Schedules: functions from the number of a step or epoch, counted from 0, to a value."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
import math

from jboat.callbacks import argument_checks

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same value for ever."""
    return lambda step: value


def linear(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` at step 0 in equal parts to ``end`` at step ``steps``, and ``end`` from there on."""
    _require_steps(steps)
    return lambda step: start + (end - start) * min(step, steps) / steps


def exponential(start: float, factor: float) -> Schedule:
    """``start * factor ** step``."""
    return lambda step: start * factor**step


def cosine(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` at step 0 along half a cosine to ``end`` at step ``steps``, and ``end`` from there on."""
    _require_steps(steps)
    return lambda step: end + (start - end) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def piecewise(values: Sequence[float], boundaries: Sequence[int]) -> Schedule:
    """``values[i]`` from step ``boundaries[i - 1]`` on; one value more than boundaries, which rise.

    Raises:
        ValueError: if the numbers do not fit or the boundaries do not rise.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"piecewise needs one value more than boundaries, got {len(values)} and {len(boundaries)}")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries must rise, got {list(boundaries)}")
    return lambda step: values[bisect.bisect_right(boundaries, step)]


def _require_steps(steps: int) -> None:
    argument_checks.count("steps", steps)

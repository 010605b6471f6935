"""Running statistics of models, such as BatchNorm's, which a training step advances once.

Whatever runs a model in training mode advances them, a trial as well as a step. So they are put back after every run,
and what they would have become in the one that counts is noted and taken over at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from jboat import functional
import jittor as jt


def noted(statistics: Sequence[jt.Var]) -> list[jt.Var]:
    """The values they have now."""
    return [functional.alias(v) for v in statistics]


def put(statistics: Sequence[jt.Var], values: Sequence[jt.Var]) -> None:
    """Let them have these values."""
    for variable, value in zip(statistics, values, strict=True):
        variable.swap(functional.alias(value))


def advance(statistics: Sequence[jt.Var], *candidates: Sequence[jt.Var] | None) -> None:
    """Let each have the first of the noted values that differs from what it has; None and an empty list have none."""
    for i, variable in enumerate(statistics):
        moved = (values[i] for values in candidates if values and values[i].id != variable.id)
        value = next(moved, None)
        if value is not None:
            variable.swap(functional.alias(value))

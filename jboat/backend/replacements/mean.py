"""The mean of all entries, summed in float64 while models are evaluated.

Jittor adds up quotients in float32, so that 470 right of 500 are 0.939995.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_WHY = "while models are evaluated, the mean of all entries of a float32 array is summed in float64"
_JITTORS = {(owner, "mean"): install(owner, "mean", _WHY) for owner in (jt, jt.Var)}


def in_float64() -> dict[Place, Function]:
    """The functions that run while models are evaluated, by place."""
    return {place: _summed_in_float64(mean) for place, mean in _JITTORS.items()}


def _summed_in_float64(mean: Function) -> Function:
    def summed_in_float64(x: Any, *args: Any, **kwargs: Any) -> jt.Var:
        if args or kwargs or not isinstance(x, jt.Var) or x.dtype != "float32":
            return mean(x, *args, **kwargs)
        return mean(x.float64()).float32()

    return summed_in_float64

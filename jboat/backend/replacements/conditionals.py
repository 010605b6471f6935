"""Conditions that select entries, stored as bytes.

The gradient of everything made of ``jt.ternary`` selects by a stored ``bool``, and g++ makes no vector code of a loop
that loads one: 12 ms for 1.5 million numbers, where the same loop over bytes takes 0.7 ms.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_WHY = "conditions are stored as bytes, of which the compiler makes vector code"
_JITTORS = {(jt, name): install(jt, name, _WHY) for name in ("ternary", "ternary_out_hint", "where")}


def on_cpu() -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    return {place: _by_bytes(operation) for place, operation in _JITTORS.items()}


def _by_bytes(operation: Function) -> Function:
    def conditional(condition: Any, *values: Any, **options: Any) -> jt.Var:
        if values and isinstance(condition, jt.Var) and condition.dtype == "bool":
            condition = condition.uint8()
        return operation(condition, *values, **options)

    return conditional

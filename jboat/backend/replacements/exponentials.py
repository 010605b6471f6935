"""Exponentials and what is made of them, computed once.

Jittor fuses them into every kernel that reads them, and computes them again in each. Where such a kernel sums along
rows, g++ makes no vector code of it either.
"""

from __future__ import annotations

from typing import Any

from jboat.backend.replacements.dispatch import Function, Place, install
import jittor as jt

_WHY = "it has a kernel of its own instead of being computed again in every kernel that reads it"
_NAMES = ("exp", "sigmoid", "tanh", "erf")
_JITTORS = {(owner, name): install(owner, name, _WHY) for owner in (jt, jt.Var) for name in _NAMES}


def on_cpu() -> dict[Place, Function]:
    """The functions that run inside a block on a CPU, by place."""
    return {place: _computed_once(operation) for place, operation in _JITTORS.items()}


def _computed_once(operation: Function) -> Function:
    def computed_once(*args: Any, **kwargs: Any) -> jt.Var:
        return operation(*args, **kwargs).stop_fuse()

    return computed_once

"""The trainer and what it owns: the loop, loaders, state and history."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jboat.stop_reason import StopReason as StopReason
    from jboat.trainers.bilevel_trainer import BilevelTrainer as BilevelTrainer
    from jboat.trainers.errors import NonFiniteError as NonFiniteError
    from jboat.trainers.errors import SecondOrderError as SecondOrderError
    from jboat.trainers.history import History as History
    from jboat.trainers.outer_step.result import HyperGradientResult as HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState as TrainerState

_HOMES = {
    "BilevelTrainer": "bilevel_trainer",
    "History": "history",
    "HyperGradientResult": "outer_step.result",
    "NonFiniteError": "errors",
    "SecondOrderError": "errors",
    "StopReason": "trainer_state",
    "TrainerState": "trainer_state",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jboat.trainers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jboat.trainers.{_HOMES[name]}"), name)

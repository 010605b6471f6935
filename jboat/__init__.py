"""Gradient-based bilevel optimization on Jittor: a trainer, callbacks, and exact hypergradient operators."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jboat.backend.start import start_when_used

if TYPE_CHECKING:
    from jboat.registry import register_operator as register_operator
    from jboat.stop_reason import StopReason as StopReason
    from jboat.trainers.bilevel_trainer import BilevelTrainer as BilevelTrainer
    from jboat.trainers.errors import DeviceMemoryError as DeviceMemoryError
    from jboat.trainers.errors import NonFiniteError as NonFiniteError
    from jboat.trainers.errors import SecondOrderError as SecondOrderError
    from jboat.trainers.history import History as History
    from jboat.trainers.outer_step.result import HyperGradientResult as HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState as TrainerState
    from jboat.trajectory import Trajectory as Trajectory

__version__ = version("jboat-trainer")

_HOMES = {
    "BilevelTrainer": "jboat.trainers.bilevel_trainer",
    "DeviceMemoryError": "jboat.trainers.errors",
    "History": "jboat.trainers.history",
    "HyperGradientResult": "jboat.trainers.outer_step.result",
    "NonFiniteError": "jboat.trainers.errors",
    "SecondOrderError": "jboat.trainers.errors",
    "StopReason": "jboat.stop_reason",
    "TrainerState": "jboat.trainers.trainer_state",
    "Trajectory": "jboat.trajectory",
    "register_operator": "jboat.registry",
}
__all__ = ["__version__", *_HOMES]

start_when_used()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jboat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

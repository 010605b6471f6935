"""The trainer and what it owns: the loop, loaders, state and history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jboat.public_names import HOMES, imported

if TYPE_CHECKING:
    from jboat.stop_reason import StopReason as StopReason
    from jboat.trainers.bilevel_trainer import BilevelTrainer as BilevelTrainer
    from jboat.trainers.errors import DeviceMemoryError as DeviceMemoryError
    from jboat.trainers.errors import NonFiniteError as NonFiniteError
    from jboat.trainers.errors import SecondOrderError as SecondOrderError
    from jboat.trainers.history import History as History
    from jboat.trainers.outer_step.result import HyperGradientResult as HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState as TrainerState

__all__ = [name for name, home in HOMES.items() if home.startswith("jboat.trainers.") or name == "StopReason"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jboat.trainers' has no attribute {name!r}")
    return imported(name)

"""Limit the size of hypergradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jboat import functional
from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState


class GradientClipping(Callback):
    """Clips by value, then by norm, before the upper step; NaN stays NaN.

    HypergradientCheck looks at what the gradients were before.

    Args:
        max_norm: the largest Euclidean norm of all gradients together; longer ones are shortened to it.
        max_value: the largest absolute value of an entry.
        level: ``"upper"`` for the hypergradient, ``"lower"`` for DI's gradient by y_0.

    Raises:
        ValueError: for a limit that is not positive, none at all, or another level.
    """

    def __init__(
        self,
        max_norm: float | None = None,
        max_value: float | None = None,
        level: Literal["upper", "lower"] = "upper",
    ) -> None:
        if max_norm is max_value is None:
            raise ValueError("give max_norm, max_value or both")
        for name, limit in (("max_norm", max_norm), ("max_value", max_value)):
            if limit is not None:
                argument_checks.positive(name, limit)
        if level not in ("upper", "lower"):
            raise ValueError(f"level must be 'upper' or 'lower', got {level!r}")
        self._max_norm = None if max_norm is None else float(max_norm)
        self._max_value = None if max_value is None else float(max_value)
        self._level = level

    @property
    def key(self) -> str:
        """The class and the level."""
        return f"GradientClipping({self._level})"

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Clip the gradients of the level."""
        if self._level == "upper":
            result.unclipped = result.gradients
            result.gradients = self._clipped(result.gradients)
        elif result.ll_init_gradient is not None:
            result.ll_init_gradient = self._clipped(result.ll_init_gradient)

    def _clipped(self, gradients: list[jt.Var]) -> list[jt.Var]:
        if self._max_value is not None:
            limit = self._max_value
            gradients = [jt.where(g.abs() > limit, limit * (g / g.abs()), g) for g in gradients]
        if self._max_norm is not None:
            norm = functional.norm(gradients)
            if norm > self._max_norm:
                gradients = functional.times(self._max_norm / norm, gradients)
        return functional.cut(gradients)

"""Watch how far y is from the lower solution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState


class LowerGradientNorm(Callback):
    """Publishes ``lower_gradient_norm``, the norm of the lower problem's gradient at the y that a step ends with.

    It vanishes at the lower solution. A method that lowers F by leaving that solution, as DI, GDA and the
    value-function methods can, shows a norm that stays up. The lower problem is f on the last lower batch with the
    lower optimizer's coupled weight decay, at the x before the upper step; GDA's share of F is left out. It costs one
    lower gradient.

    Args:
        every_n_steps: measure in one outer step of so many, at least 1.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        self._every = argument_checks.count("every_n_steps", every_n_steps)
        self._found: dict[str, float] = {}

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Measure, one step in so many."""
        due = (state.step + 1) % self._every == 0
        self._found = (
            {"lower_gradient_norm": trainer.current_run.lower_gradient_norm(result.ll_parameters)} if due else {}
        )

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Publish what was found."""
        state.metrics.update(self._found)

"""What to do about a NaN."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.saved_values import is_count
from jboat.stop_reason import StopReason

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")


class NaNGuard(Callback):
    """Handles a step whose losses or gradients are NaN or infinite, which would end the run with an error otherwise.

    Either way no variable moves in that step. A method that starts from all batches at once, as SRBA does, cannot start
    while one of them gives NaN: one warning says so, and which batches hold it.

    Args:
        action: ``"stop"`` ends the run in good order, with ``StopReason.NON_FINITE``; ``"skip"`` goes on with the next
            batches.
        max_skips: how many steps in a row may be skipped before the run stops after all.

    Raises:
        ValueError: for another action or a number out of range.

    Attributes:
        skipped: steps left out so far; also the metric ``skipped_steps``.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"action must be 'stop' or 'skip', got {action!r}")
        self._action = action
        self._max_skips = argument_checks.count("max_skips", max_skips)
        self._in_a_row = 0
        self.skipped = 0

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Require counts."""
        if not is_count(state["skipped"]) or not is_count(state["in_a_row"]):
            raise ValueError("NaNGuard: skipped and in_a_row must be counts")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Leave the step out if anything of it is not finite."""
        failure = trainer.current_run.failure_of(result)
        if failure is None:
            self._in_a_row = 0
            return
        result.skip = True
        self.skipped += 1
        self._in_a_row += 1
        logger.warning("%s: the step is left out", failure)
        if self._action == "stop" or self._in_a_row > self._max_skips:
            state.request_stop(StopReason.NON_FINITE)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Publish the count."""
        state.metrics["skipped_steps"] = float(self.skipped)

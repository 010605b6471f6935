"""Fills the trainer's history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jboat.callbacks.callback import Callback
from jboat.trainers.metric_value import metric_value
from jboat.trainers.step_metrics import StepMetrics

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


def record(trainer: BilevelTrainer, state: TrainerState) -> None:
    """Add the row of the step just finished, unless it is there.

    Raises:
        TypeError: if a metric is no number.
    """
    rows = trainer.history.rows
    if rows and rows[-1]["step"] == state.step:
        return
    for name, value in state.metrics.items():
        if not isinstance(value, (int, float)):
            dict.__setitem__(state.metrics, name, metric_value(name, value, "a callback, in state.metrics,"))
    numbers = {name: value for name, value in state.metrics.items() if name not in state.validation}
    trainer.history.append(state.step, state.epoch, numbers)
    if isinstance(state.metrics, StepMetrics):
        state.metrics.row = trainer.history.rows[-1]


class HistoryRecorder(Callback):
    """One row of ``trainer.history`` an outer step, what other callbacks added to the metrics included."""

    rank = 1

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add the row of the step."""
        record(trainer, state)

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add the evaluation to the row of its step."""
        trainer.history.rows[-1].update(state.validation)

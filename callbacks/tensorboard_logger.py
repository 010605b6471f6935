"""Metrics for TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class TensorBoardLogger(Callback):
    """Every metric as a scalar against the outer step, the configuration as text, and histograms on request.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        every_n_steps: log one step in so many.
        histograms: draw a histogram of each upper-level variable every so many steps; 0 for never.

    Raises:
        ValueError: for a number of steps out of range.
    """

    rank = 1

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, every_n_steps: int = 1, histograms: int = 0
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if histograms < 0:
            raise ValueError(f"histograms must be a number of steps, or 0 for never, got {histograms}")
        self._folder = None if folder is None else Path(folder)
        self._every = every_n_steps
        self._histograms = histograms
        self._writer: Any = None

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open the event file and write the configuration."""
        self._writer = SummaryWriter(str(log_folder(self._folder, trainer, "TensorBoardLogger")))
        configuration = json.dumps(trainer.configuration(), indent=1)
        self._writer.add_text("configuration", f"```\n{configuration}\n```", state.step)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the step's numbers."""
        if state.step % self._every == 0:
            self._add({n: v for n, v in state.metrics.items() if n not in state.validation}, state.step)
        if self._histograms and state.step % self._histograms == 0:
            for i, variable in enumerate(trainer.ul_var):
                self._writer.add_histogram(f"upper_variables/{i}", variable.numpy(), state.step)

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the evaluation's numbers."""
        self._add(state.validation, state.step)

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, numbers: dict[str, float], step: int) -> None:
        """Write all numbers as one event: the writer's queue costs more than its values."""
        values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in numbers.items()]
        self._writer.file_writer.add_summary(Summary(value=values), step)


def _tag(name: str) -> str:
    """TensorBoard groups tags by what precedes the slash."""
    for prefix in ("val_", "time_"):
        if name.startswith(prefix):
            return f"{prefix[:-1]}/{name.removeprefix(prefix)}"
    return f"train/{name}"

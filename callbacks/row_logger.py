"""The base class of loggers that write one row an outer step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class RowLogger(Callback):
    """Gathers the row of a step, to which an evaluation may add, and writes it when the next step starts.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
    """

    rank = 1

    def __init__(self, folder: str | os.PathLike[str] | None, name: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._name = name
        self._path: Path | None = None
        self._row: dict[str, float] = {}

    @property
    def key(self) -> str:
        """The class and the file name."""
        return f"{type(self).__name__}({self._name})"

    def open(self, path: Path, step: int) -> None:
        """Open the file and keep of it the rows up to ``step``, those of the run that goes on."""
        raise NotImplementedError(f"{type(self).__name__} must define open()")

    def write(self, row: dict[str, float]) -> None:
        """Write one row and bring it out of Python's buffers."""
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def close(self) -> None:
        """Close the file, if it is open."""
        raise NotImplementedError(f"{type(self).__name__} must define close()")

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Find the folder."""
        self._row = {}
        self._path = log_folder(self._folder, trainer, type(self).__name__) / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open the file: a fresh one for a run that starts, the same one for a run that goes on."""
        if self._path is not None:
            self.open(self._path, state.step)

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the row of the step before."""
        self._flush()

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the row of this step; an evaluation may add to it."""
        numbers = {name: value for name, value in state.metrics.items() if name not in state.validation}
        self._row = {"step": state.step, "epoch": state.epoch, **numbers}

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add the evaluation to the row of its step."""
        self._row.update(state.validation)

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the last row and close the file."""
        try:
            self._flush()
        finally:
            self.close()

    def _flush(self) -> None:
        row, self._row = self._row, {}
        if row:
            self.write(row)

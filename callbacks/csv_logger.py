"""Metrics in a CSV file."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class CSVLogger(Callback):
    """One line an outer step: ``step``, ``epoch`` and the metrics; evaluations fill the line of their step.

    A line is on disk when the next step starts. A new ``fit`` of the same trainer goes on in the same file.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, name: str = "metrics.csv") -> None:
        self._folder = None if folder is None else Path(folder)
        self._name = name
        self._file: IO[str] | None = None
        self._columns: list[str] = []
        self._row: dict[str, float] = {}

    @property
    def key(self) -> str:
        """The class and the file name."""
        return f"CSVLogger({self._name})"

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open the file: a fresh one for a run that starts, the same one for a run that goes on."""
        path = log_folder(self._folder, trainer, "CSVLogger") / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = state.step > 0 and path.exists()
        self._file = path.open("r+" if resumed else "w+", newline="", encoding="utf-8")
        self._columns = next(csv.reader(self._file), []) if resumed else []
        self._file.seek(0, os.SEEK_END)

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the line of the step before."""
        self._flush()

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the line of this step; an evaluation may add to it."""
        numbers = {name: value for name, value in state.metrics.items() if name not in state.validation}
        self._row = {"step": state.step, "epoch": state.epoch, **numbers}

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add the evaluation to the line of its step."""
        self._row.update(state.validation)

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write the last line and close the file."""
        if self._file is None:
            return
        try:
            self._flush()
        finally:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if self._file is None or not self._row:
            return
        new = [name for name in self._row if name not in self._columns]
        if new:
            self._widen(self._file, [*self._columns, *new])
        csv.DictWriter(self._file, self._columns).writerow(self._row)
        self._file.flush()
        self._row = {}

    def _widen(self, file: IO[str], columns: list[str]) -> None:
        """Rewrite the file with more columns; the cells of earlier lines stay empty."""
        file.seek(0)
        lines = list(csv.DictReader(file))
        self._columns = columns
        file.seek(0)
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
        file.truncate()

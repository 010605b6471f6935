"""The base class of loggers that write one row an outer step."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from jboat.callbacks.write_errors import naming

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

Row = dict[str, float]


class RowLogger(Callback):
    """Gathers the rows of the steps, to which evaluations may add, and writes them every so often and at the end.

    A run that goes on, by another ``fit`` or from a checkpoint, starts the file with the rows of the trainer's history,
    so that what a killed run had not written yet is not missing.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the file.
        times: whether to write the metrics called ``time_...``, the only ones that differ between two runs with the
            same seed.
        flush_seconds: write after so many seconds; 0 for every step.

    Raises:
        ValueError: for negative seconds.
    """

    rank = 1
    writes = True

    def __init__(
        self, folder: str | os.PathLike[str] | None, name: str, *, times: bool = True, flush_seconds: float = 1.0
    ) -> None:
        argument_checks.at_least_zero("flush_seconds", flush_seconds)
        self._folder = None if folder is None else Path(folder)
        self._name = name
        self._times = times
        self._flush_seconds = flush_seconds
        self._path: Path | None = None
        self._rows: list[Row] = []
        self._flushed = 0.0

    @property
    def key(self) -> str:
        """The class and the file name."""
        return f"{type(self).__name__}({self._name})"

    @property
    def place(self) -> Path | None:
        """The folder it was given."""
        return self._folder

    def open(self, path: Path) -> None:
        """Open an empty file."""
        raise NotImplementedError(f"{type(self).__name__} must define open()")

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows and bring them out of Python's buffers; without an open file do nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def close(self) -> None:
        """Close the file, if it is open."""
        raise NotImplementedError(f"{type(self).__name__} must define close()")

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Find the folder."""
        self._rows = []
        self._path = log_folder(self._folder, trainer, type(self).__name__) / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open the file and write the rows of the run so far."""
        if self._path is not None:
            with naming(self._path):
                self.open(self._path)
            self._rows = [dict(row) for row in trainer.history]
            self._flush()

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the row of this step, to which evaluations, and what is logged until the next step, still add."""
        if time.perf_counter() - self._flushed >= self._flush_seconds:
            self._flush()
        self._rows.append(trainer.history.rows[-1])

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write what waits and close the file."""
        try:
            self._flush()
        finally:
            with naming(self._name if self._path is None else self._path):
                self.close()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not self._times:
            rows = [{n: v for n, v in row.items() if not n.startswith("time_")} for row in rows]
        if rows and self._path is not None:
            with naming(self._path):
                self.write(rows)
        self._flushed = time.perf_counter()

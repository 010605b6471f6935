"""Curves of the metrics as a picture."""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from jboat.spelling import nearest

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")


def _require_picture(argument: str, name: str | os.PathLike[str]) -> None:
    """Refuse a file whose ending is no format of pictures.

    Args:
        argument: what the file is called in the error.
        name: the file.

    Raises:
        ValueError: if matplotlib writes no such file.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    endings, own = sorted(FigureCanvasBase.filetypes), Path(name).suffix[1:].lower()
    if own and own not in endings:
        raise ValueError(f"{argument} must end with a format of pictures, got {name!r}; there are {', '.join(endings)}")


class CurvePlotter(Callback):
    """Draws the history at the end of a run, however it ends, and every so many epochs.

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        name: the picture; its ending chooses the format.
        metrics: which to draw; by default the losses, the hypergradient's norm and those of the evaluation. One that
            never comes is left out, with a warning.
        every_n_epochs: draw every so many epochs too; None for the end alone.

    Raises:
        ImportError: without matplotlib, which the extra ``jboat-trainer[plot]`` installs.
        TypeError: if ``metrics`` is a single name.
        ValueError: for a number of epochs out of range, or a format that matplotlib does not write.
    """

    rank = 1
    writes = True

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        name: str = "curves.png",
        metrics: Sequence[str] | None = None,
        every_n_epochs: int | None = None,
    ) -> None:
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError("CurvePlotter needs matplotlib: pip install 'jboat-trainer[plot]'")
        _require_picture("name", name)
        if every_n_epochs is not None:
            argument_checks.count("every_n_epochs", every_n_epochs)
        if isinstance(metrics, str):
            raise TypeError(f"metrics must be a list of names, got {metrics!r}; write [{metrics!r}]")
        self._folder = None if folder is None else Path(folder)
        self._name = name
        self._metrics = metrics
        self._every = every_n_epochs
        self._told: set[str] = set()

    @property
    def key(self) -> str:
        """The class and the file name."""
        return f"CurvePlotter({self._name})"

    @property
    def place(self) -> Path | None:
        """The folder it was given."""
        return self._folder

    def on_epoch_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Draw, one epoch in so many."""
        if self._every is not None and state.epoch % self._every == 0:
            self._draw(trainer)

    def on_fit_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Draw, and warn of a metric that never came."""
        self._warn(trainer)
        self._draw(trainer)

    def on_exception(self, trainer: BilevelTrainer, state: TrainerState, exception: BaseException) -> None:
        """Draw what there is."""
        self._warn(trainer)
        self._draw(trainer)

    def _warn(self, trainer: BilevelTrainer) -> None:
        there = trainer.history.names()
        if not there:
            return
        for name in sorted({*(self._metrics or ())} - {*there} - self._told):  # an error would cost the run's history
            self._told.add(name)
            logger.warning("CurvePlotter: no metric %r so far, which is left out.%s", name, nearest(name, there))

    def _draw(self, trainer: BilevelTrainer) -> None:
        history = trainer.history
        wanted = self._metrics
        if wanted is not None:
            wanted = [name for name in wanted if name in history.names()]
        if not len(history) or wanted == []:
            return
        history.plot(log_folder(self._folder, trainer, "CurvePlotter") / self._name, wanted)

"""Where a logger writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def log_folder(given: str | Path | None, trainer: BilevelTrainer, logger: str) -> Path:
    """The folder given to the logger, or the trainer's ``logger_dir``; one aside in a trial run.

    Raises:
        ValueError: if there is neither.
    """
    folder = given if given is not None else trainer.logger_dir
    if folder is None:
        raise ValueError(f"{logger} does not know where to write: give it a folder, or the trainer logger_dir")
    return trainer.current_run.folder_for(Path(folder))

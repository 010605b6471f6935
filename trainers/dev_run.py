"""A short run of everything, of which nothing stays: ``fit(fast_dev_run=N)``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import logging
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

from jboat.trainers.fit_call import FitCall
from jboat.trainers.history import History
from jboat.trainers.history_recorder import HistoryRecorder
from jboat.trainers.persistence import checkpoint
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


def dev_run(trainer: BilevelTrainer, call: FitCall, steps: int) -> History:
    """Take a few outer steps, each of the loop's parts at least once, and put the trainer back.

    The epoch ends where the steps do, so that evaluation and the hooks of an epoch's end come. What callbacks write
    goes into a temporary folder, and so does a checkpoint that is written and read in any case. Models, optimizers,
    step, history and what callbacks remember in checkpoints are as before afterwards.

    Args:
        trainer: what is tried.
        call: what ``fit`` was called with; its limits and ``resume_from`` are not looked at.
        steps: how many outer steps.

    Returns:
        The rows of these steps.
    """
    call.max_epochs, call.max_steps, call.max_time, call.resume_from = None, steps, None, None
    call.val_every, call.limit_val_batches, call.end_pass = None, min(steps, call.limit_batches or steps), True
    run, state = trainer.current_run, trainer.state
    first_step, first_epoch, first_row = state.step, state.epoch, len(trainer.history)
    tried = History()
    with tempfile.TemporaryDirectory(prefix="jboat-dev-run-") as name, _put_back(trainer, call, Path(name) / "a.npz"):
        run.scratch_folder = Path(name) / "files"
        try:
            call.run(trainer)
            checkpoint.save(trainer, Path(name) / "b.npz")
            checkpoint.load(trainer, Path(name) / "b.npz")
        finally:
            run.scratch_folder = None
        tried.rows = trainer.history.rows[first_row:]
        taken, epochs = state.step - first_step, state.epoch - first_epoch
    evaluated = "an evaluation" if any(n.startswith("val_") for n in tried.names()) else "no evaluation (no val_loader)"
    callbacks = [type(c).__name__ for c in trainer.callbacks.callbacks if not isinstance(c, HistoryRecorder)]
    logger.warning(
        "fast_dev_run: %s in %s, %s and a checkpoint ran, with %s; the trainer is as it was, and no file was kept",
        _counted(taken, "outer step"),
        _counted(epochs, "epoch"),
        evaluated,
        ", ".join(callbacks) or "no callbacks",
    )
    return tried


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@contextmanager
def _put_back(trainer: BilevelTrainer, call: FitCall, path: Path) -> Iterator[None]:
    """Let the trainer, and the generators of Datasets, be after the block what they were before."""
    run = trainer.current_run
    kept, loaded_from, stop_reason = dict(vars(run.resumption)), run.loaded_from, trainer.state.stop_reason
    generators = [getattr(loader, "_shuffle_rng", None) for loader in call.loaders]
    shuffles = [(g, g.bit_generator.state) for g in generators if isinstance(g, np.random.Generator)]
    checkpoint.save(trainer, path)
    try:
        yield
    finally:
        checkpoint.load(trainer, path)
        vars(run.resumption).update(kept)
        run.loaded_from, trainer.state.stop_reason = loaded_from, stop_reason
        for generator, state in shuffles:
            generator.bit_generator.state = state

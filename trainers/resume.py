"""Find the checkpoint that ``fit(resume_from=...)`` means."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jboat.callbacks.model_checkpoint import ModelCheckpoint
from jboat.trainers.checkpoint import CheckpointError, DamagedCheckpointError

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


def resume(trainer: BilevelTrainer, source: str | Path) -> None:
    """Load a checkpoint.

    Args:
        trainer: what takes it.
        source: a path; or ``"last"``, the newest good checkpoint of the ModelCheckpoint among the callbacks, older ones
            being tried where newer ones are damaged; or ``"best"``.

    Raises:
        ValueError: for ``"last"`` or ``"best"`` without a ModelCheckpoint.
        CheckpointError: if no checkpoint can be used, or the newest good one is of another configuration.
    """
    if source not in ("last", "best"):
        trainer.load_checkpoint(source)
        return
    callbacks = [c for c in trainer.callbacks.callbacks if isinstance(c, ModelCheckpoint)]
    if not callbacks:
        raise ValueError(
            f"resume_from={source!r} needs a ModelCheckpoint among the callbacks, which says where to look"
        )
    if source == "best":
        trainer.load_checkpoint(callbacks[0].best_file)
        return
    candidates = callbacks[0].newest_first()
    if not candidates:
        logger.warning("no checkpoint in %s yet: the run starts afresh", callbacks[0].dirpath)
        return
    for path in candidates:
        try:
            trainer.load_checkpoint(path)
        except DamagedCheckpointError as error:
            logger.warning("%s; trying the one before it", error)
        else:
            logger.info("resumed from %s", path)
            return
    raise CheckpointError(f"none of the {len(candidates)} checkpoints in {callbacks[0].dirpath} can be read")

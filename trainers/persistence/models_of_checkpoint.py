"""Take the models out of a checkpoint, and nothing else, whatever the settings of the run that wrote it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from jboat.trainers.persistence import archive, checkpoint, checkpoint_contents
from jboat.trainers.persistence.checkpoint import CheckpointError, DamagedCheckpointError
from jboat.trainers.persistence.weights import WeightsError, require_fit
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


def load_models(trainer: BilevelTrainer, path: str | os.PathLike[str]) -> None:
    """Give both models, and variables beside them, the values in a checkpoint; see ``load_checkpoint``.

    Raises:
        CheckpointError: if the file is missing, damaged or no checkpoint, or its models are not of the trainer's names
            and shapes; nothing has changed then.
    """
    try:
        tree = archive.read(path)
    except archive.ArchiveError as error:
        raise DamagedCheckpointError(str(error)) from error
    named = checkpoint.variables(trainer)
    try:
        checkpoint_contents.require_keys(tree)
        saved = {**tree["variables"], **checkpoint_contents.measured_arrays(tree)}
        require_fit(path, saved, named)
        values = {name: checkpoint_contents.variable(saved[name], v, f"variables.{name}") for name, v in named.items()}
        differences = checkpoint.configuration_differences(trainer, tree)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # whatever a stranger's values lead to
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} does not fit this trainer: {what}") from error
    for name, v in named.items():
        v.update(values[name])
    jt.sync(list(named.values()))
    trainer.current_run.forget_starts()
    for difference in differences:
        logger.warning("%s was saved under other settings: %s", path, difference)

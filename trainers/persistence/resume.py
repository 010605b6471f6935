"""Find the checkpoint that ``fit(resume_from=...)`` means."""

from __future__ import annotations

import difflib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jboat.backend import ranks
from jboat.callbacks.model_checkpoint import ModelCheckpoint
from jboat.trainers.persistence import checkpoint
from jboat.trainers.persistence.checkpoint import CheckpointError, DamagedCheckpointError

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


def resume(trainer: BilevelTrainer, source: str | Path) -> None:
    """Load a checkpoint.

    Args:
        trainer: what takes it.
        source: a path; or ``"last"``, the newest good checkpoint of all ModelCheckpoints among the callbacks, older
            ones being tried where newer ones are damaged; or ``"best"``, that of the one ModelCheckpoint with a metric.

    Raises:
        ValueError: for ``"last"`` or ``"best"`` without a ModelCheckpoint, or for ``"best"`` with several metrics.
        CheckpointError: if no checkpoint can be used, or the newest good one is of another configuration.
    """
    if source not in ("last", "best"):
        _require_a_file(source)
        trainer.load_checkpoint(source)
        return
    callbacks = _checkpoints(trainer)
    if not callbacks:
        raise ValueError(
            f"resume_from={source!r} needs a ModelCheckpoint among the callbacks, which says where to look"
        )
    if source == "best":
        trainer.load_checkpoint(_of_rank_0([_best_file(callbacks)])[0])
        return
    folders = ", ".join(dict.fromkeys(str(c.dirpath) for c in callbacks))
    found = {path.absolute(): path for c in callbacks for path in c.newest_first()}
    candidates = _of_rank_0(sorted(found.values(), key=lambda path: path.stat().st_mtime_ns, reverse=True))
    if not candidates:
        logger.warning("no checkpoint in %s yet: the run starts afresh", folders)
        return
    for path in candidates:
        try:
            checkpoint.load(trainer, path, measured=False)
        except DamagedCheckpointError as error:
            logger.warning("%s; trying the one before it", error)
        else:
            logger.info("resumed from %s", path)
            return
    raise CheckpointError(f"none of the {len(candidates)} checkpoints in {folders} can be read")


def _of_rank_0(paths: list[Path]) -> list[Path]:
    """The files that rank 0 has found, which alone writes any."""
    told = ranks.broadcast_bytes(json.dumps([str(path) for path in paths]).encode())
    return [Path(path) for path in json.loads(told)]


def _require_a_file(source: str | Path) -> None:
    if Path(source).is_file():
        return
    words = "a checkpoint's path, 'last' or 'best'"
    near = difflib.get_close_matches(str(source), ("last", "best"), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise CheckpointError(f"resume_from must be {words}, and there is no file {source}.{hint}")


def way_on(trainer: BilevelTrainer) -> str:
    """How a run that was interrupted can go on, in words."""
    saved = [c.newest_path for c in _checkpoints(trainer) if c.newest_path is not None and c.newest_path.exists()]
    if not saved:
        there = "yet" if _checkpoints(trainer) else "since there is no ModelCheckpoint among the callbacks"
        return f"no checkpoint was written {there}"
    newest = max(saved, key=lambda path: path.stat().st_mtime_ns)
    return f"the newest checkpoint is {newest}; fit(..., resume_from='last') goes on from there"


def _best_file(callbacks: list[ModelCheckpoint]) -> Path:
    files = [c.best_file for c in callbacks if c.monitors]
    if len(files) > 1:
        listing = ", ".join(str(file) for file in files)
        raise ValueError(f"resume_from='best' could mean {listing}; give one of these paths")
    return files[0] if files else callbacks[0].best_file


def _checkpoints(trainer: BilevelTrainer) -> list[ModelCheckpoint]:
    return [c for c in trainer.callbacks.callbacks if isinstance(c, ModelCheckpoint)]

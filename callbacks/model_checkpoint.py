"""Save checkpoints while training."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any, Literal

from jboat.callbacks.callback import Callback
from jboat.callbacks.monitor import Mode, Monitor

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")

_Entry = tuple[float | None, str]
"""A file's score, of which less is better, and its name."""


class ModelCheckpoint(Callback):
    """Writes ``step-00000012.npz`` files, ``last.npz`` and, with a monitored metric, ``best.npz``.

    It runs after all other callbacks, so that a checkpoint holds what they did. A file is written under a temporary
    name, brought to disk and renamed; then the best path is updated; then files are pruned. After a Ctrl-C a checkpoint
    is always saved. With none of the three ``every_n_...`` a checkpoint is saved at the end of every epoch.

    Args:
        dirpath: the folder.
        monitor: the metric that says which checkpoints are best; None to keep the newest. A checkpoint whose step has
            no value of it, or NaN, is worse than any that has one. With a metric of the step itself, such as
            ``ul_loss``, which is measured before x moves, a ``step-...`` file and ``best.npz`` give back, when loaded,
            the parameters at which it was measured; ``last.npz`` and ``resume_from="last"`` go on after the step.
        mode: ``"min"`` or ``"max"``.
        save_top_k: how many ``step-...`` files to keep; -1 for all.
        save_last: whether to keep ``last.npz``, the newest checkpoint.
        every_n_steps: save every so many outer steps.
        every_n_epochs: save every so many epochs.
        every_n_seconds: save at the end of a step when so many seconds have passed.
        save_on_exception: save where an exception ends the run: the state after the last finished step.
        on_error: ``"raise"`` to end the run when a checkpoint cannot be written, ``"continue"`` to log it and go on.

    Raises:
        ValueError: for an argument out of range.

    Attributes:
        best_path: the best checkpoint, or None where none has a score yet.
    """

    rank = 2

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str | None = None,
        mode: Mode = "min",
        save_top_k: int = 1,
        save_last: bool = True,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        every_n_seconds: float | None = None,
        save_on_exception: bool = False,
        on_error: Literal["raise", "continue"] = "raise",
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if every_n_seconds is not None and not every_n_seconds > 0:
            raise ValueError(f"every_n_seconds must be positive, got {every_n_seconds}")
        if save_top_k < -1:
            raise ValueError(f"save_top_k must be -1 (all) or a number of files, got {save_top_k}")
        if save_top_k == 0 and not save_last:
            raise ValueError("save_top_k=0 with save_last=False would keep no checkpoint at all")
        if on_error not in ("raise", "continue"):
            raise ValueError(f"on_error must be 'raise' or 'continue', got {on_error!r}")
        if every_n_steps is every_n_epochs is every_n_seconds is None:
            every_n_epochs = 1
        self.dirpath = Path(dirpath)
        self._monitor = None if monitor is None else Monitor(monitor, mode)
        self._top_k = save_top_k
        self._save_last = save_last
        self._every_n_steps = every_n_steps
        self._every_n_epochs = every_n_epochs
        self._every_n_seconds = every_n_seconds
        self._save_on_exception = save_on_exception
        self._on_error = on_error
        self._saved: list[_Entry] = []  # from best to worst
        self._unscored: int | None = None  # the step that was saved last, if it had no value of the metric
        self._last_time = time.monotonic()
        self.best_path: Path | None = None

    @property
    def key(self) -> str:
        """The class, the metric and what decides when to save."""
        monitor = None if self._monitor is None else self._monitor.name
        return f"ModelCheckpoint({monitor}, {self._every_n_steps}, {self._every_n_epochs}, {self._every_n_seconds})"

    @property
    def monitors(self) -> bool:
        """Whether a metric says which checkpoints are best."""
        return self._monitor is not None

    @property
    def best_file(self) -> Path:
        """Where the best checkpoint is found by its name."""
        return self.dirpath / "best.npz"

    def newest_first(self) -> list[Path]:
        """The checkpoints in the folder, the one written last first."""
        files = [self.dirpath / "last.npz", *self.dirpath.glob("step-*.npz")]
        return sorted((f for f in files if f.exists()), key=lambda f: f.stat().st_mtime_ns, reverse=True)

    def state_dict(self) -> dict[str, Any]:
        """The files kept and their scores; None where a file's step had no value of the metric."""
        return {"saved": [[score, name] for score, name in self._saved]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, less the files that are gone."""
        self._saved = [(score, name) for score, name in state["saved"] if (self.dirpath / name).exists()]
        self.best_path = self._best_of(self._saved)

    def wants_measured_values(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether a metric says which checkpoints are best."""
        return self.monitors

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Make the folder."""
        self.dirpath.mkdir(parents=True, exist_ok=True)
        self._unscored = None
        self._last_time = time.monotonic()

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Refuse a metric that cannot come."""
        if self._monitor is not None:
            self._monitor.start(trainer, state)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Save if a step is due, or enough time has passed."""
        if self._monitor is not None:
            self._monitor.of_step(trainer, state)
        if self._due(state) and not self._evaluates_later(trainer, state):
            self._save(trainer, state)

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Save if a step was due and the metric comes from its evaluation, or was saved before it had a score."""
        if self._monitor is None:
            return
        scored = self._monitor.of_evaluation(trainer, state) is not None
        due = self._due(state)
        if (due and self._evaluates_later(trainer, state)) or (scored and (due or self._unscored == state.step)):
            self._save(trainer, state)

    def on_epoch_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Save if an epoch is due."""
        if self._every_n_epochs is not None and state.epoch % self._every_n_epochs == 0:
            self._save(trainer, state)

    def on_exception(self, trainer: BilevelTrainer, state: TrainerState, exception: BaseException) -> None:
        """Save the state after the last finished step."""
        if state.step > 0 and (self._save_on_exception or isinstance(exception, KeyboardInterrupt)):
            self._save(trainer, state)

    def on_fit_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Warn of a metric that never came."""
        if self._monitor is not None:
            self._monitor.end(state)

    def _due(self, state: TrainerState) -> bool:
        if self._every_n_steps is not None and state.step % self._every_n_steps == 0:
            return True
        waited = time.monotonic() - self._last_time
        return self._every_n_seconds is not None and waited >= self._every_n_seconds

    def _evaluates_later(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether the monitored metric of this step is still to come."""
        by_evaluation = self._monitor is not None and self._monitor.name.startswith("val_")
        return by_evaluation and trainer.evaluates_after(state.step)

    def _save(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        try:
            self._write(trainer, state)
        except OSError as error:
            if self._on_error == "raise":
                raise OSError(
                    f"the checkpoint of step {state.step} could not be written to {self.dirpath}: {error}"
                ) from error
            logger.warning("the checkpoint of step %d could not be written: %s; training goes on", state.step, error)

    def _write(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        name = _file_name(state.step)
        before = self._saved
        score = self._score(trainer, state)
        known = next((entry for entry in before if entry[1] == name and entry[0] is not None), None)
        this = known if known and score is None else (score, name)
        ranked = sorted([*(entry for entry in before if entry[1] != name), this], key=_rank)
        kept = ranked if self._top_k == -1 else ranked[: self._top_k]
        keep_this = this in kept and this is not known
        measured = self._monitor is not None and self._monitor.name in state.step_metrics
        self._saved = kept  # the checkpoint holds the list as it will be once the checkpoint is there
        path = self.dirpath / (name if keep_this else "last.npz")
        try:
            if keep_this or self._save_last:
                trainer.save_checkpoint(path, measured=measured and keep_this)
            if keep_this and self._save_last and measured:
                trainer.save_checkpoint(self.dirpath / "last.npz")
            elif keep_this and self._save_last:
                _replace_by_link(self.dirpath / "last.npz", path)
            if keep_this and self._monitor is not None and self._best_of(kept) == path:
                _replace_by_link(self.best_file, path)
        except OSError:
            self._saved = before
            raise
        self.best_path = self._best_of(kept)
        self._unscored = state.step if score is None else None
        self._last_time = time.monotonic()
        for _, dropped in before:
            if all(dropped != entry[1] for entry in kept):
                (self.dirpath / dropped).unlink(missing_ok=True)

    def _score(self, trainer: BilevelTrainer, state: TrainerState) -> float | None:
        if self._monitor is None:
            return float(-state.step)
        value = self._monitor.at_present(trainer, state)
        return value if value is None or self._monitor.mode == "min" else -value

    def _best_of(self, entries: list[_Entry]) -> Path | None:
        """The first of these files, if it has a score that is a number."""
        if not entries or entries[0][0] is None or math.isnan(entries[0][0]):
            return None
        return self.dirpath / entries[0][1]


def _file_name(step: int) -> str:
    return f"step-{step:08d}.npz"


def _rank(entry: _Entry) -> tuple[int, float, str]:
    """Numbers first, the least in front; then files without a score, the newest in front; then NaN."""
    score, name = entry
    if score is None:
        return 1, -float("".join(filter(str.isdigit, name)) or 0), name
    return (2, 0.0, name) if math.isnan(score) else (0, score, name)


def _replace_by_link(path: Path, target: Path) -> None:
    """Let ``path`` be another name of ``target``'s content, in one step."""
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.unlink(missing_ok=True)
    os.link(target, scratch)
    os.replace(scratch, path)

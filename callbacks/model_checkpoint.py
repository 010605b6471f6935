"""Save checkpoints while training."""

from __future__ import annotations

import logging
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any, Literal

from jboat.callbacks import argument_checks, scored_files
from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from jboat.callbacks.monitor import Mode, Monitor
from jboat.callbacks.scored_files import ScoredFile
from jboat.callbacks.scratch_file import remove_leftovers, second_name
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")


class ModelCheckpoint(Callback):
    """Writes ``step-00000012.npz`` files, ``last.npz`` and, with a monitored metric, ``best.npz``.

    It runs after all other callbacks, so that a checkpoint holds what they did. A file is written under a temporary
    name, brought to disk and renamed; then the best path is updated; then files are pruned. After a Ctrl-C or a SIGTERM
    a checkpoint is always saved, unless a second signal ends the step under way. With none of the three ``every_n_...``
    a checkpoint is saved at the end of every epoch.

    Several may share a folder: a file is pruned when none of them keeps it, and the best of the second with a
    ``monitor`` is called ``best-2.npz``. Where their files of a step give back different parameters, as with
    ``monitor="ul_loss"`` and without, those from before the step are called ``step-00000012-measured.npz``. A run that
    is resumed into another folder goes on to compare with the best that it had, which appears there as ``best.npz``.
    Variables that are NaN or infinite are not written: the checkpoint before stays the last.

    Args:
        dirpath: the folder; by default the trainer's ``logger_dir``.
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
        newest_path: the checkpoint written last, or None.
    """

    rank = 2
    writes = True

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
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
            if value is not None:
                argument_checks.count(name, value)
        if every_n_seconds is not None:
            argument_checks.positive("every_n_seconds", every_n_seconds)
        if argument_checks.integer("save_top_k", save_top_k) < -1:
            raise ValueError(f"save_top_k must be -1 (all) or a number of files, got {save_top_k}")
        if save_top_k == 0 and not save_last:
            raise ValueError("save_top_k=0 with save_last=False would keep no checkpoint at all")
        if on_error not in ("raise", "continue"):
            raise ValueError(f"on_error must be 'raise' or 'continue', got {on_error!r}")
        if every_n_steps is every_n_epochs is every_n_seconds is None:
            every_n_epochs = 1
        self._given = None if dirpath is None else Path(dirpath)
        self._dirpath = self._given
        self._monitor = None if monitor is None else Monitor(monitor, mode)
        self._top_k = save_top_k
        self._save_last = save_last
        self._every_n_steps = every_n_steps
        self._every_n_epochs = every_n_epochs
        self._every_n_seconds = every_n_seconds
        self._save_on_exception = save_on_exception
        self._on_error = on_error
        self._saved: list[ScoredFile] = []  # from best to worst
        self._best: ScoredFile | None = None  # the best so far, which may be in another folder
        self._best_name = "best.npz"
        self._unscored: int | None = None  # the step that was saved last, if it had no value of the metric
        self._just_loaded = False
        self._last_time = time.monotonic()
        self.best_path: Path | None = None
        self.newest_path: Path | None = None

    @property
    def dirpath(self) -> Path:
        """The folder; one that is the trainer's ``logger_dir`` is known when ``fit`` has begun.

        Raises:
            ValueError: before.
        """
        if self._dirpath is None:
            raise ValueError("ModelCheckpoint was given no folder, and takes the trainer's logger_dir when fit begins")
        return self._dirpath

    @property
    def place(self) -> Path | None:
        """The folder it was given."""
        return self._given

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
        return self.dirpath / self._best_name

    def newest_first(self) -> list[Path]:
        """The checkpoints in the folder, the one written last first."""
        files = [self.dirpath / "last.npz", *self.dirpath.glob("step-*.npz")]
        return sorted((f for f in files if f.is_file()), key=lambda f: f.stat().st_mtime_ns, reverse=True)

    def state_dict(self) -> dict[str, Any]:
        """The files kept and their scores, None where a file's step had no value of the metric; and the best so far."""
        best = None if self._best is None else list(self._best)
        return {"saved": [[score, name] for score, name in self._saved], "best": best}

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Require scores and bare names of ``step-...`` files."""
        scored_files.from_state(state, unscored=self.monitors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, less the files that are gone."""
        saved, self._best = scored_files.from_state(state, unscored=self.monitors)
        self._saved = [file for file in saved if (self.dirpath / file[1]).is_file()]
        best = scored_files.best_of(self._saved)
        self.best_path = None if best is None else self.dirpath / best[1]
        self._just_loaded = True

    def wants_measured_values(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether a metric says which checkpoints are best."""
        return self.monitors

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Make the folder and remove what killed runs left unfinished in it."""
        self._dirpath = self._folder(trainer)
        self.dirpath.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.dirpath, rf"{scored_files.NAME}|last\.npz|best(-[0-9]+)?\.npz")
        monitored = [c for c in self._sharing(trainer) if c.monitors]
        place = monitored.index(self) if self in monitored else 0
        self._best_name = "best.npz" if place == 0 else f"best-{place + 1}.npz"
        self._unscored = None
        self._last_time = time.monotonic()

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Refuse a metric that cannot come; after a resume, find the files that are one's own, and fetch the best."""
        if self._monitor is not None:
            self._monitor.start(trainer, state)
        if self._just_loaded:
            self._just_loaded = False
            self._settle(trainer)

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
        at_once = getattr(exception, "at_once", False)  # by a second signal, maybe half way through an update
        interrupted = isinstance(exception, KeyboardInterrupt)
        if state.step > 0 and not at_once and (self._save_on_exception or interrupted):
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
        return by_evaluation and trainer.current_run.evaluates_after(state.step)

    def _save(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        if not all(np.isfinite(v.numpy()).all() for v in (*trainer.ll_var, *trainer.ul_var)):
            logger.warning("the checkpoint of step %d is not written: a variable is NaN or infinite", state.step)
            return
        try:
            self._write(trainer, state)
        except OSError as error:
            if self._on_error == "raise":
                raise OSError(
                    f"the checkpoint of step {state.step} could not be written to {self.dirpath}: {error}"
                ) from error
            logger.warning("the checkpoint of step %d could not be written: %s; training goes on", state.step, error)

    def _write(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        step, before, best_before, sharing = state.step, self._saved, self._best, self._sharing(trainer)
        score, measured = self._score(trainer, state), self._measures(state)
        mixed = any(c._measures(state) != measured for c in sharing)
        known = next((file for file in before if scored_files.step_of(file) == step and file[0] is not None), None)
        this = known if known and score is None else (score, scored_files.file_name(step, measured=measured and mixed))
        earlier = [file for file in before if scored_files.step_of(file) != step]
        ranked = sorted([*earlier, this], key=scored_files.rank)
        kept = ranked if self._top_k == -1 else ranked[: self._top_k]
        keep_this = this in kept and this is not known
        stands = best_before is not None and (score is None or scored_files.step_of(best_before) != step)
        best = scored_files.best_of([*kept, *([best_before] if best_before is not None and stands else [])])
        moved = best != best_before or (best == this and keep_this)
        self._saved, self._best = kept, best  # the checkpoint holds both as they will be once it is there
        path, last = self.dirpath / (this[1] if keep_this else "last.npz"), self.dirpath / "last.npz"
        try:
            if keep_this or self._save_last:
                trainer.save_checkpoint(path, measured=measured and keep_this)
            if keep_this and self._save_last and measured:
                trainer.save_checkpoint(last)
            elif keep_this and self._save_last:
                second_name(path, last)
            if best is not None and moved and self.monitors:
                second_name(self.dirpath / best[1], self.best_file)
        except OSError:
            self._saved, self._best = before, best_before
            raise
        if moved:
            self.best_path = None if best is None else self.dirpath / best[1]
        if keep_this or self._save_last:
            self.newest_path = last if measured and self._save_last else path
        self._unscored = step if score is None else None
        self._last_time = time.monotonic()
        listed = {name for c in sharing for _, name in c._saved}
        for _, name in before:
            if name not in listed:
                (self.dirpath / name).unlink(missing_ok=True)

    def _settle(self, trainer: BilevelTrainer) -> None:
        """After a resume: tell one's own files from those of the folder that was resumed from, and fetch the best."""
        origin = None if trainer.current_run.loaded_from is None else trainer.current_run.loaded_from.parent
        savers = [c for c in trainer.callbacks.callbacks if isinstance(c, ModelCheckpoint)]
        moved = origin is not None and origin.resolve() not in [c.dirpath.resolve() for c in savers]
        if moved and origin is not None:
            self._saved = [file for file in self._saved if not (origin / file[1]).exists()]
        self.best_path = None
        if self._best is None:
            return
        if self._best in self._saved:
            self.best_path = self.dirpath / self._best[1]
        elif self.monitors:
            if moved or not self.best_file.is_file():
                theirs = [] if origin is None else [origin / self._best[1], origin / self._best_name]
                found = next((path for path in theirs if path.is_file()), None)
                if found is None:
                    return
                second_name(found, self.best_file)
            self.best_path = self.best_file

    def _sharing(self, trainer: BilevelTrainer) -> list[ModelCheckpoint]:
        """The trainer's checkpoints in this folder, this one among them."""
        found = [c for c in trainer.callbacks.callbacks if isinstance(c, ModelCheckpoint)]
        mine = self._folder(trainer).resolve()
        return [c for c in found if c is self or c._folder(trainer).resolve() == mine]

    def _folder(self, trainer: BilevelTrainer) -> Path:
        return log_folder(self._given, trainer, "ModelCheckpoint")

    def _measures(self, state: TrainerState) -> bool:
        """Whether its files give back the parameters from before the step, at which its metric was measured."""
        return self._monitor is not None and self._monitor.name in state.step_metrics

    def _score(self, trainer: BilevelTrainer, state: TrainerState) -> float | None:
        if self._monitor is None:
            return float(-state.step)
        value = self._monitor.at_present(trainer, state)
        return value if value is None or self._monitor.mode == "min" else -value

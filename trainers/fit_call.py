"""One call of ``fit``: its arguments, checked before anything is read, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboat.callbacks import argument_checks
from jboat.trainers import arguments, rehearsal
from jboat.trainers.data.floats import as_wide_as
from jboat.trainers.data.loaders import check_fixed
from jboat.trainers.device_scope import device_scope
from jboat.trainers.fit_loop import FitLoop
from jboat.trainers.logged_values import may_log
from jboat.trainers.progress import shown

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


@dataclass
class FitCall:
    """What ``fit`` was called with; see there.

    Attributes:
        loaders: lower, upper and evaluation loader.
        limit_val_batches: how many batches an evaluation has at most; None for all.
        end_pass: whether the epoch ends where the run does.
    """

    loaders: tuple[Any, Any, Any]
    max_epochs: int | None
    max_steps: int | None
    max_time: float | None
    val_every: int | None
    resume_from: str | Path | None
    check_second_order: bool
    limit_batches: int | None
    progress: bool | None
    limit_val_batches: int | None = None
    end_pass: bool = False

    def check(self, trainer: BilevelTrainer) -> None:
        """Refuse what cannot be, without reading from a loader; while ``warmup`` rehearses, shorten the run.

        Raises:
            TypeError: for a limit or a loader of a wrong kind.
            ValueError: for a limit out of range, an empty loader, or a loader that the method cannot use.
        """
        if rehearsal.under_way():
            trainer.callbacks = rehearsal.harmless(trainer.callbacks)
            self.max_epochs, self.max_steps, self.max_time, self.resume_from = None, rehearsal.STEPS, None, None
            self.val_every = self.val_every if self.loaders[2] is None else 1
        limits = (self.val_every, self.max_epochs, self.max_steps, self.max_time)
        arguments.fit_arguments(*self.loaders, *limits)
        if self.limit_batches is not None:
            argument_checks.count("limit_batches", self.limit_batches)
        if self.progress is not None and not isinstance(self.progress, bool):
            raise TypeError(f"progress must be True, False or None, got {self.progress!r}")
        method = trainer.current_run.method
        if method.needs_fixed_batches:
            check_fixed(self.loaders[0], "ll_loader", method.name)
            check_fixed(self.loaders[1], "ul_loader", method.name)

    def run(self, trainer: BilevelTrainer) -> None:
        """Train."""
        max_epochs, max_steps = (None if n is None else int(n) for n in (self.max_epochs, self.max_steps))
        if max_epochs is max_steps is self.max_time is None:
            max_epochs = 1
        with as_wide_as(trainer.ll_var):
            self._run(trainer, max_epochs, max_steps)

    def _run(self, trainer: BilevelTrainer, max_epochs: int | None, max_steps: int | None) -> None:
        loop = FitLoop(
            trainer,
            *self.loaders,
            self.val_every,
            self.check_second_order,
            lambda: names_of_evaluations(trainer),
            limits=(self.limit_batches, self.limit_batches, self.limit_val_batches or self.limit_batches),
            end_pass=self.end_pass,
        )
        with device_scope(trainer.device, trainer.current_run.half_precision), shown(trainer, self.progress):
            loop.run(max_epochs=max_epochs, max_steps=max_steps, max_time=self.max_time, resume_from=self.resume_from)


def names_of_evaluations(trainer: BilevelTrainer) -> tuple[str, ...] | None:
    """What evaluations within ``fit`` give by name; None where what is called alone can tell."""
    defined = next(cls for cls in type(trainer).__mro__ if "evaluation_step" in vars(cls))
    if not defined.__module__.startswith("jboat.") or "evaluation_step" in vars(trainer):
        return None
    if any(may_log(function) for function in (trainer.current_run.problem.ul_objective, *trainer.metrics.values())):
        return None
    return tuple(f"val_{name}" for name in ("ul_loss", *trainer.metrics))

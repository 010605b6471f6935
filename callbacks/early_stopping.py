"""Stop when a metric no longer improves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.monitor import Mode, Monitor
from jboat.callbacks.saved_values import is_count, same_kind
from jboat.stop_reason import StopReason
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class EarlyStopping(Callback):
    """Stops the run after ``patience`` checks without improvement.

    A metric of an evaluation is checked after every evaluation, another one after every outer step that has it. Each
    ``fit`` starts counting afresh, unless it resumes a checkpoint.

    Args:
        monitor: the metric.
        mode: ``"min"`` or ``"max"``.
        patience: checks without improvement that are allowed, at least 1.
        min_delta: the least change that counts as an improvement.
        threshold: stop as soon as the metric is at least this good.
        divergence_threshold: stop as soon as it is worse than this.
        check_finite: stop when it is NaN or infinite.
        restore_best: give both models back, when the run ends, the parameters at which the best value was measured:
            for a metric of the step itself, such as ``ul_loss``, x before the upper step and the y that F saw.

    Raises:
        ValueError: for an argument out of range.

    Attributes:
        wait: checks since the last improvement.
        best_step: the outer step of the best check.
    """

    rank = 1

    def __init__(
        self,
        monitor: str = "ul_loss",
        mode: Mode = "min",
        patience: int = 10,
        min_delta: float = 0.0,
        threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        restore_best: bool = False,
    ) -> None:
        self._monitor = Monitor(monitor, mode, min_delta)
        self._patience = argument_checks.count("patience", patience)
        for name, limit in (("threshold", threshold), ("divergence_threshold", divergence_threshold)):
            if limit is not None and math.isnan(argument_checks.number(name, limit)):
                raise ValueError(f"{name} must be a number or None, got nan")
        self._threshold = threshold
        self._divergence_threshold = divergence_threshold
        self._check_finite = check_finite
        self._restore_best = restore_best
        self._best_values: dict[str, Any] = {}
        self.wait = 0
        self.best_step = 0

    @property
    def key(self) -> str:
        """The class, the metric and its mode."""
        return f"EarlyStopping({self._monitor.name}, {self._monitor.mode})"

    @property
    def best(self) -> float | None:
        """The best value of the metric in this run."""
        return self._monitor.best

    def state_dict(self) -> dict[str, Any]:
        """The count, the best value and, with ``restore_best``, the best parameters."""
        return {
            "wait": self.wait,
            "best": self.best,
            "best_step": self.best_step,
            "best_values": dict(self._best_values),
        }

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Require counts, a number, and parameters of the shapes that the models have, or none."""
        if not is_count(state["wait"]) or not is_count(state["best_step"]):
            raise ValueError(f"{self.key}: wait and best_step must be counts")
        if not same_kind(state["best"], None, infinite=True):
            raise ValueError(f"{self.key}: best must be a number or None")
        saved, forms = state["best_values"], {n: (v.shape, v.dtype) for n, v in trainer.values().items()}
        if not isinstance(saved, dict) or not all(isinstance(v, np.ndarray) for v in saved.values()):
            raise ValueError(f"{self.key}: best_values must hold arrays")
        if saved and {n: (v.shape, v.dtype) for n, v in saved.items()} != forms:
            raise ValueError(f"{self.key}: best_values are not those of these models")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.wait, self._monitor.best, self.best_step = state["wait"], state["best"], state["best_step"]
        self._best_values = dict(state["best_values"])

    def wants_measured_values(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether the best parameters are to be given back."""
        return self._restore_best

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Start counting afresh; a checkpoint that is resumed overrides this."""
        self.wait, self._monitor.best, self.best_step, self._best_values = 0, None, 0, {}

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Refuse a metric that cannot come."""
        self._monitor.start(trainer, state)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Check a metric of the step."""
        self._check(trainer, state, self._monitor.of_step(trainer, state))

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Check a metric of the evaluation."""
        self._check(trainer, state, self._monitor.of_evaluation(trainer, state))

    def on_fit_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Give back the best parameters."""
        self._monitor.end(state)
        if self._restore_best and self._best_values:
            trainer.set_values(self._best_values)

    def _check(self, trainer: BilevelTrainer, state: TrainerState, value: float | None) -> None:
        if value is None:
            return
        if self._monitor.improve(value):
            self.wait, self.best_step = 0, state.step
            if self._restore_best:
                before_update = self._monitor.name in state.step_metrics
                self._best_values = trainer.current_run.measured_values() if before_update else trainer.values()
        else:
            self.wait += 1
        good, worse = self._threshold, self._divergence_threshold
        if (
            self.wait >= self._patience
            or (self._check_finite and not math.isfinite(value))
            or (good is not None and self._monitor.as_good(value, good))
            or (worse is not None and not self._monitor.as_good(value, worse))
        ):
            state.request_stop(StopReason.EARLY_STOPPING)

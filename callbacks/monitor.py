"""Follow one metric: its value where the present parameters have one, and whether it improves."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Literal

from jboat.callbacks import argument_checks
from jboat.callbacks.lambda_callback import LambdaCallback
from jboat.spelling import nearest

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

logger = logging.getLogger("jboat")

Mode = Literal["min", "max"]


class MonitoredMetric:
    """A metric by its name.

    A value counts only where it was measured in the step or evaluation that has just ended: None stands for a metric
    that has none there, which is neither NaN nor what an earlier evaluation gave. A step that was left out has none.

    Args:
        name: the metric.

    Raises:
        TypeError: if the name is no string.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"monitor must be the name of a metric, got {name!r}")
        self.name = name
        self._seen = False

    def start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Look at the name before the first step.

        Raises:
            ValueError: if no evaluation of this ``fit`` can give it.
        """
        self._seen = False
        given = state.evaluation_metrics
        if not self._from_evaluation or given is None or self.name in given or self._may_be_added(trainer):
            return
        if not given:
            raise ValueError(f"there is no metric {self.name!r} without evaluations; give fit() a val_loader")
        raise ValueError(f"there is no metric {self.name!r}; evaluations give {', '.join(given)}.{self._near(given)}")

    def of_step(self, trainer: BilevelTrainer, state: TrainerState) -> float | None:
        """Its value after an outer step.

        Raises:
            ValueError: after the first step, if it cannot come later either.
        """
        if self.name in state.metrics and self.name not in state.validation:
            self._seen = True
            return None if state.step_left_out else state.metrics[self.name]
        if not self._from_evaluation:
            self._require(trainer, state)
        return None

    def of_evaluation(self, trainer: BilevelTrainer, state: TrainerState) -> float | None:
        """Its value after an evaluation.

        Raises:
            ValueError: after the first evaluation, if it cannot come later either.
        """
        if self.name in state.validation:
            self._seen = True
            return state.validation[self.name]
        if self._from_evaluation:
            self._require(trainer, state)
        return None

    def at_present(self, trainer: BilevelTrainer, state: TrainerState) -> float | None:
        """Its value where the last step of this ``fit``, or an evaluation after that step, gave one."""
        if self.name not in state.validation:
            return state.metrics.get(self.name) if state.step_metrics and not state.step_left_out else None
        rows = trainer.history.rows
        evaluated = bool(rows) and rows[-1]["step"] == state.step and self.name in rows[-1]
        return state.validation[self.name] if evaluated else None

    def end(self, state: TrainerState) -> None:
        """Warn, after the last step, of a metric that never came."""
        if not self._seen and state.step_metrics:
            logger.warning(
                "the metric %r, which is monitored, never came in this fit; there are %s",
                self.name,
                ", ".join(state.metrics),
            )

    @property
    def _from_evaluation(self) -> bool:
        return self.name.startswith("val_")

    def _require(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        if self._seen or self._may_be_added(trainer):
            return
        known = list(dict.fromkeys([*state.metrics, *(state.evaluation_metrics or ())]))
        raise ValueError(
            f"there is no metric {self.name!r} at step {state.step}; there are {', '.join(known)}.{self._near(known)}"
        )

    def _near(self, known: list[str] | tuple[str, ...]) -> str:
        evaluated = f"val_{self.name}"
        return f" Did you mean {evaluated!r}?" if evaluated in known else nearest(self.name, known)

    def _may_be_added(self, trainer: BilevelTrainer) -> bool:
        """Whether a callback may still add it: one that says so, or one of the user's, of which nothing is known."""
        return any(
            self.name in c.later_metrics or isinstance(c, LambdaCallback) or not type(c).__module__.startswith("jboat.")
            for c in trainer.callbacks.callbacks
        )


class Monitor(MonitoredMetric):
    """The best value of a metric so far.

    Args:
        name: the metric.
        mode: whether less or more is better.
        min_delta: what counts as an improvement: a change by more than this.

    Raises:
        ValueError: for another mode or a negative ``min_delta``.

    Attributes:
        best: the best value seen, or None.
    """

    def __init__(self, name: str, mode: Mode, min_delta: float = 0.0) -> None:
        super().__init__(name)
        argument_checks.at_least_zero("min_delta", min_delta)
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` is better than ``than`` by more than ``min_delta``; NaN never is."""
        if math.isnan(value):
            return False
        return value < than - self.min_delta if self.mode == "min" else value > than + self.min_delta

    def as_good(self, value: float, bound: float) -> bool:
        """Whether ``value`` is at least as good as ``bound``; NaN never is."""
        return value <= bound if self.mode == "min" else value >= bound

    def improve(self, value: float) -> bool:
        """Take ``value`` as the best if it is; tells whether it was."""
        improved = not math.isnan(value) and (self.best is None or self.better(value, self.best))
        if improved:
            self.best = value
        return improved

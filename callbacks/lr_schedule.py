"""A schedule for a learning rate."""

from __future__ import annotations

import inspect
from itertools import takewhile
import math
from typing import TYPE_CHECKING, Any, Literal

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.monitor import MonitoredMetric
from jboat.callbacks.saved_values import same_kind
from jboat.callbacks.schedules import Schedule
from jboat.optim.settings import learning_rates
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class LRSchedule(Callback):
    """Moves the learning rate of one level's optimizer.

    Args:
        schedule: a Jittor scheduler over that optimizer, whose ``step()`` is called after every step or epoch; or a
            function from the number of the step or epoch, from 0, to the learning rate, at least 0, which is set
            before it.
            Parameter groups with a rate of their own keep its ratio to the optimizer's.
        level: ``"upper"`` or ``"lower"``.
        per: whether to count outer steps or epochs.
        monitor: the metric to hand to ``step()``, for a scheduler such as ReduceLROnPlateau, which then advances only
            where there is a new value: after a step or evaluation, or at the end of an epoch that had one.

    Raises:
        TypeError: if ``schedule`` is neither.
        ValueError: for another level or ``per``, or for a ``monitor`` where the schedule takes none, or none where it
            takes one.
    """

    def __init__(
        self,
        schedule: Any,
        level: Literal["upper", "lower"] = "upper",
        per: Literal["step", "epoch"] = "step",
        monitor: str | None = None,
    ) -> None:
        if not callable(schedule) and not hasattr(schedule, "step"):
            raise TypeError(f"schedule must be a Jittor scheduler or a function, got {schedule!r}")
        if level not in ("upper", "lower"):
            raise ValueError(f"level must be 'upper' or 'lower', got {level!r}")
        if per not in ("step", "epoch"):
            raise ValueError(f"per must be 'step' or 'epoch', got {per!r}")
        self._scheduler = schedule if hasattr(schedule, "step") else None
        _require_monitor(self._scheduler, monitor)
        self._function: Schedule | None = None if self._scheduler is not None else schedule
        self._level = level
        self._per = per
        self._monitor = None if monitor is None else MonitoredMetric(monitor)
        self._arguments = _plain_attributes(self._scheduler)
        self._ratios: list[float] | None = None
        if monitor is not None:
            self.rank = 1  # reads what others add to the metrics

    @property
    def key(self) -> str:
        """The class and the level."""
        return f"LRSchedule({self._level})"

    def arguments(self) -> dict[str, Any]:
        """The scheduler's plain attributes as it was given; a resumed run must have the same."""
        return dict(self._arguments)

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's plain attributes and the ratios of the parameter groups."""
        return {"attributes": _plain_attributes(self._scheduler), "ratios": self._ratios}

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Require the scheduler's own attributes, with values of their kinds, and one ratio a parameter group."""
        own = _plain_attributes(self._scheduler)
        if set(state["attributes"]) != set(own):
            raise ValueError(f"{self.key}: the scheduler's attributes are {', '.join(own) or 'none'}")
        for name, value in state["attributes"].items():
            if not same_kind(value, own[name], infinite=True):
                raise ValueError(f"{self.key}: {name} is {own[name]!r} here, and cannot be what was saved")
        if state["ratios"] is not None and not same_kind(
            state["ratios"], [1.0] * len(self._optimizer(trainer).param_groups)
        ):
            raise ValueError(f"{self.key}: ratios must have a number for each parameter group")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        for name, value in state["attributes"].items():
            setattr(self._scheduler, name, value)
        self._ratios = state["ratios"]

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Check that a scheduler drives this level's optimizer, and that its metric can come.

        Raises:
            ValueError: if it drives another, if its metric cannot come, or if a parameter group has a rate of its own
                and the optimizer's is 0.
        """
        if self._monitor is not None:
            self._monitor.start(trainer, state)
        optimizer = self._optimizer(trainer)
        if self._scheduler is not None and self._scheduler.optimizer is not optimizer:
            raise ValueError(f"the scheduler drives another optimizer than the {self._level} level's")
        if self._ratios is None:
            own = learning_rates(optimizer)
            self._ratios = [self._ratio(i, rate, float(optimizer.lr)) for i, rate in enumerate(own)]

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Set the rate that a function gives.

        Raises:
            TypeError: if it is no number, naming the step.
            ValueError: if it is negative or not finite, naming the step.
        """
        if self._function is None:
            return
        count = state.step if self._per == "step" else state.epoch
        place = f"LRSchedule({self._level}) at {self._per} {count}"
        rate = argument_checks.scheduled(place, self._function(count))
        if not (math.isfinite(rate) and rate >= 0.0):
            raise ValueError(f"{place}: the rate must be a number of at least 0, got {rate}")
        optimizer = self._optimizer(trainer)
        optimizer.lr = rate
        for group, ratio in zip(optimizer.param_groups, self._ratios or [], strict=True):
            if "lr" in group:
                group["lr"] = rate * ratio

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance a scheduler that counts steps."""
        if self._monitor is not None:
            self._take(self._monitor.of_step(trainer, state))
        elif self._per == "step":
            self._advance()

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance a scheduler that counts steps and follows a metric of the evaluation."""
        if self._monitor is not None:
            self._take(self._monitor.of_evaluation(trainer, state))

    def on_epoch_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance a scheduler that counts epochs."""
        if self._per != "epoch":
            return
        if self._monitor is None:
            self._advance()
            return
        of_epoch = takewhile(lambda row: row["epoch"] == state.epoch - 1, reversed(trainer.history.rows))
        values = (row[self._monitor.name] for row in of_epoch if self._monitor.name in row)
        self._advance(next(values, None))

    def on_fit_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Warn of a metric that never came."""
        if self._monitor is not None:
            self._monitor.end(state)

    def _take(self, value: float | None) -> None:
        if self._per == "step":
            self._advance(value)

    def _advance(self, value: float | None = None) -> None:
        """Let the scheduler step, with a new value of the metric where it wants one."""
        if self._scheduler is None:
            return
        if self._monitor is None:
            self._scheduler.step()
        elif value is not None:
            self._scheduler.step(value)

    def _ratio(self, group: int, rate: float, optimizers: float) -> float:
        if rate == optimizers:
            return 1.0
        if optimizers == 0.0:
            raise ValueError(
                f"LRSchedule({self._level}) keeps the ratio of a parameter group's rate to the optimizer's, but group "
                f"{group} has {rate} and the optimizer 0; make the optimizer with the rate to start from"
            )
        return rate / optimizers

    def _optimizer(self, trainer: BilevelTrainer) -> jt.optim.Optimizer:
        return trainer.ul_optimizer if self._level == "upper" else trainer.ll_optimizer


def _require_monitor(scheduler: Any, monitor: str | None) -> None:
    """Refuse a metric that nothing reads, and a scheduler without the metric that it needs."""
    parameters = [] if scheduler is None else list(inspect.signature(scheduler.step).parameters.values())
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p.name for p in taken if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    name = "a function" if scheduler is None else type(scheduler).__name__
    if monitor is not None and not taken:
        raise ValueError(f"monitor is {monitor!r}, but {name} takes no metric; leave monitor out")
    if monitor is None and needed:
        raise ValueError(f"{name}.step() needs {needed[0]!r}: name the metric to hand to it as monitor=")


def _plain_attributes(scheduler: Any) -> dict[str, Any]:
    """A Jittor scheduler has no ``state_dict``; its numbers and lists of numbers are its state."""
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in (vars(scheduler).items() if scheduler is not None else ())
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(v, plain) for v in value))
    }

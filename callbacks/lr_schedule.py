"""A schedule for a learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from jboat.callbacks.callback import Callback
from jboat.callbacks.saved_values import same_kind
from jboat.callbacks.schedules import Schedule
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class LRSchedule(Callback):
    """Moves the learning rate of one level's optimizer.

    Args:
        schedule: a Jittor scheduler over that optimizer, whose ``step()`` is called after every step or epoch; or a
            function from the number of the step or epoch, from 0, to the learning rate, which is set before it.
            Parameter groups with a rate of their own keep its ratio to the optimizer's.
        level: ``"upper"`` or ``"lower"``.
        per: whether to count outer steps or epochs.
        monitor: the metric to hand to ``step()``, for a scheduler such as ReduceLROnPlateau.

    Raises:
        TypeError: if ``schedule`` is neither.
        ValueError: for another level or ``per``.
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
        self._function: Schedule | None = None if self._scheduler is not None else schedule
        self._level = level
        self._per = per
        self._monitor = monitor
        self._ratios: list[float] | None = None

    @property
    def key(self) -> str:
        """The class and the level."""
        return f"LRSchedule({self._level})"

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
        """Check that a scheduler drives this level's optimizer.

        Raises:
            ValueError: if it drives another.
        """
        optimizer = self._optimizer(trainer)
        if self._scheduler is not None and self._scheduler.optimizer is not optimizer:
            raise ValueError(f"the scheduler drives another optimizer than the {self._level} level's")
        if self._ratios is None:
            self._ratios = [group.get("lr", optimizer.lr) / optimizer.lr for group in optimizer.param_groups]

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Set the rate that a function gives.

        Raises:
            ValueError: if it is no positive number, naming the step.
        """
        if self._function is None:
            return
        count = state.step if self._per == "step" else state.epoch
        rate = float(self._function(count))
        if not (math.isfinite(rate) and rate > 0.0):
            raise ValueError(f"LRSchedule({self._level}) at {self._per} {count}: the rate must be positive, got {rate}")
        optimizer = self._optimizer(trainer)
        optimizer.lr = rate
        for group, ratio in zip(optimizer.param_groups, self._ratios or [], strict=True):
            if "lr" in group:
                group["lr"] = rate * ratio

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance a scheduler that counts steps."""
        if self._per == "step":
            self._advance(state)

    def on_epoch_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance a scheduler that counts epochs."""
        if self._per == "epoch":
            self._advance(state)

    def _advance(self, state: TrainerState) -> None:
        if self._scheduler is None:
            return
        if self._monitor is None:
            self._scheduler.step()
        else:
            self._scheduler.step(state.metrics[self._monitor])

    def _optimizer(self, trainer: BilevelTrainer) -> jt.optim.Optimizer:
        return trainer.ul_optimizer if self._level == "upper" else trainer.ll_optimizer


def _plain_attributes(scheduler: Any) -> dict[str, Any]:
    """A Jittor scheduler has no ``state_dict``; its numbers and lists of numbers are its state."""
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in (vars(scheduler).items() if scheduler is not None else ())
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(v, plain) for v in value))
    }

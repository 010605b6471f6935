"""Let an operator's option follow a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jboat import registry
from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.schedules import Schedule

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class OptionSchedule(Callback):
    """Sets one option of one operator before every outer step; the base class of GDASchedule and DISchedule.

    Where an operator of the user's stands in that one's place, its section is set, or that one's if it has none.

    Args:
        schedule: a function from the number of the step or epoch, from 0, to the value; see
            :mod:`jboat.callbacks.schedules`.
        per: whether ``schedule`` counts outer steps or epochs.

    Raises:
        TypeError: if ``schedule`` is no function.
        ValueError: for another ``per``.
    """

    operator = ""
    option = ""
    metric = ""

    def __init__(self, schedule: Schedule, per: Literal["step", "epoch"] = "step") -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be a function from a step to a number, got {schedule!r}")
        if per not in ("step", "epoch"):
            raise ValueError(f"per must be 'step' or 'epoch', got {per!r}")
        self._schedule = schedule
        self._per = per
        self._value = 0.0
        self._section = self.operator

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Complain where the operator is not in use.

        Raises:
            ValueError: if ``gm_op`` lacks the operator, or one in its place has no such option.
        """
        operator = registry.in_place_of(self.operator, trainer.gm_op)
        if operator is None:
            raise ValueError(
                f"{type(self).__name__} needs {self.operator} in gm_op, which is {list(trainer.gm_op)}; add it there"
            )
        section = operator.section_in(trainer.solver_config)
        if section is None or not hasattr(operator.options_in(trainer.solver_config), self.option):
            raise ValueError(f"{type(self).__name__} sets {self.option}, which {operator.name} has not")
        self._section = section

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Set the option for this step.

        Raises:
            TypeError: for a value that is no number, naming the step.
            ValueError: for a value out of range, naming the step.
        """
        count = state.step if self._per == "step" else state.epoch
        self._value = argument_checks.scheduled(f"{type(self).__name__} at {self._per} {count}", self._schedule(count))
        section = {**trainer.solver_config.get(self._section, {}), self.option: self._value}
        try:
            registry.check_sections({self._section: section})
        except ValueError as error:
            raise ValueError(f"{type(self).__name__} at {self._per} {count}: {error}") from error
        trainer.solver_config[self._section] = section

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Publish the value that was in force."""
        state.metrics[self.metric] = self._value

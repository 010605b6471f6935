"""Where the time of a step goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jboat.callbacks.callback import Callback
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState

PARTS = ("lower", "hypergradient", "update", "callbacks", "data")


class StepTimer(Callback):
    """Waits for the device between the parts of a step, so that their times are true, and adds them up.

    The metrics ``share_lower``, ``share_hypergradient``, ``share_update``, ``share_callbacks`` and ``share_data`` say
    which part of a step's time each took; they add up to 1.

    Attributes:
        seconds: seconds by part, summed over the steps of this ``fit``.
        steps: how many steps.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Start from zero."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Wait for the device."""
        jt.sync_all(True)

    def on_lower_loop_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Wait for the device."""
        jt.sync_all(True)

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Wait for the device."""
        jt.sync_all(True)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Add the step's times and publish their shares."""
        times = {part: state.metrics[f"time_{part}"] for part in PARTS}
        total = sum(times.values())
        for part, seconds in times.items():
            self.seconds[part] += seconds
            state.metrics[f"share_{part}"] = seconds / total
        self.steps += 1

    def summary(self) -> str:
        """A table: milliseconds a step and share of each part."""
        total = sum(self.seconds.values()) or 1.0
        lines = [
            f"{part:<14}{1000 * seconds / max(1, self.steps):>10.3f} ms {seconds / total:>7.1%}"
            for part, seconds in self.seconds.items()
        ]
        return "\n".join(lines)

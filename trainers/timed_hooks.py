"""Calls of the callbacks' hooks, with the time they take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


class TimedHooks:
    """Calls the hooks of a trainer's callbacks.

    Args:
        trainer: whose callbacks.
    """

    def __init__(self, trainer: BilevelTrainer) -> None:
        self._trainer = trainer
        self._seconds = 0.0

    def call(self, hook: str, *extra: Any) -> None:
        """Call one hook of every callback that has it."""
        trainer = self._trainer
        if not trainer.callbacks.listens(hook):
            return
        begun = time.perf_counter()
        trainer.callbacks.call(hook, trainer, trainer.state, *extra)
        self._seconds += time.perf_counter() - begun

    def take_seconds(self) -> float:
        """The seconds that hooks took since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

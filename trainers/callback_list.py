"""The callbacks of a trainer, called in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboat.callbacks.callback import HOOKS, Callback
from jboat.callbacks.csv_logger import CSVLogger
from jboat.callbacks.tensorboard_logger import TensorBoardLogger
from jboat.trainers.trainer_state import TrainerState

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def with_default_loggers(callbacks: list[Callback], folder: Path | None) -> list[Callback]:
    """The callbacks, with CSV and TensorBoard logs where there is a folder for them and no logger among them."""
    if folder is None or any(isinstance(c, (CSVLogger, TensorBoardLogger)) for c in callbacks):
        return callbacks
    return [*callbacks, CSVLogger(), TensorBoardLogger()]


class CallbackList:
    """Calls hooks by rank and, within a rank, in the order given.

    Args:
        callbacks: the callbacks.

    Raises:
        TypeError: if one is not a Callback.
        ValueError: if two have the same key.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        given = list(callbacks)
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold jboat.callbacks.Callback objects, got {callback!r}")
        self.callbacks = sorted(given, key=lambda callback: callback.rank)
        keys = [callback.key for callback in self.callbacks]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise ValueError(f"two callbacks have the same key {sorted(repeated)}; give them different arguments")
        self._listeners = {hook: [c for c in self.callbacks if _overrides(c, hook)] for hook in HOOKS}

    def call(self, hook: str, trainer: BilevelTrainer, state: TrainerState, *extra: Any) -> None:
        """Call one hook of every callback that has it."""
        for callback in self._listeners[hook]:
            getattr(callback, hook)(trainer, state, *extra)

    def call_all(self, hook: str, trainer: BilevelTrainer, state: TrainerState, *extra: Any) -> None:
        """Call one hook of every callback even where some fail; the first failure is raised afterwards."""
        failure: BaseException | None = None
        for callback in self._listeners[hook]:
            try:
                getattr(callback, hook)(trainer, state, *extra)
            except BaseException as error:
                failure = failure or error
        if failure:
            raise failure

    def listens(self, hook: str) -> bool:
        """Whether any callback has the hook."""
        return bool(self._listeners[hook])


def _overrides(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook) or hook in vars(callback)

"""The callbacks of a trainer, called in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboat.backend import ranks
from jboat.callbacks.callback import HOOKS, Callback
from jboat.callbacks.csv_logger import CSVLogger
from jboat.callbacks.progress_bar import ProgressBar
from jboat.callbacks.row_logger import RowLogger
from jboat.callbacks.tensorboard_logger import TensorBoardLogger
from jboat.trainers.trainer_state import TrainerState

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


def list_of_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        TypeError: for a single callback, or anything else that is none.
    """
    if not isinstance(callbacks, Iterable):
        hint = f"; write [{type(callbacks).__name__}(...)]" if isinstance(callbacks, Callback) else ""
        raise TypeError(f"callbacks must be a list of jboat.callbacks.Callback objects, got {callbacks!r}{hint}")
    return list(callbacks)


def with_default_loggers(callbacks: list[Callback], folder: Path | None) -> list[Callback]:
    """The callbacks, with CSV and TensorBoard logs where there is a folder for them and no logger among them."""
    if folder is None or any(isinstance(c, (RowLogger, TensorBoardLogger)) for c in callbacks):
        return callbacks
    return [*callbacks, CSVLogger(), TensorBoardLogger()]


class CallbackList:
    """Calls hooks by rank and, within a rank, in the order given.

    Args:
        callbacks: the callbacks.
        logger_dir: where those write that are given no folder.
        own: those of them that the user has given; by default all.

    Attributes:
        callbacks: all of them, in the order in which they are called.
        show_bar: whether the user has given a ProgressBar.
        show_themselves: whether the user has given anything that shows how the run goes, a logger included.

    Raises:
        TypeError: if one is not a Callback.
        ValueError: if two have the same key and write to the same folder.
    """

    def __init__(
        self,
        callbacks: Iterable[Callback],
        logger_dir: str | os.PathLike[str] | None = None,
        own: Sequence[Callback] | None = None,
    ) -> None:
        given = list(callbacks)
        theirs = given if own is None else own
        self.show_bar = any(isinstance(c, ProgressBar) for c in theirs)
        self.show_themselves = self.show_bar or any(isinstance(c, (RowLogger, TensorBoardLogger)) for c in theirs)
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold jboat.callbacks.Callback objects, got {callback!r}")
        self.callbacks = sorted(given, key=lambda callback: callback.rank)
        keys = [callback.key for callback in self.callbacks]
        places = [os.path.realpath(callback.place or logger_dir or "") for callback in self.callbacks]
        pairs = list(zip(keys, places, strict=True))
        repeated = {key for key, place in pairs if pairs.count((key, place)) > 1}
        if repeated:
            raise ValueError(
                f"two callbacks have the same key: {', '.join(sorted(repeated))}. Leave one of them out, or give them "
                "different arguments or folders"
            )
        numbers = [keys[: i + 1].count(key) for i, key in enumerate(keys)]
        self._keys = [key if n == 1 else f"{key} #{n}" for key, n in zip(keys, numbers, strict=True)]
        self._listeners = {hook: [c for c in self.callbacks if _overrides(c, hook)] for hook in HOOKS}
        here = [c for c in self.callbacks if not c.writes or ranks.rank() == 0]
        self._called = {hook: [c for c in listening if c in here] for hook, listening in self._listeners.items()}

    def by_key(self) -> dict[str, Callback]:
        """The callbacks by key; of those with the same key and other folders, the second has ``#2`` behind it."""
        return dict(zip(self._keys, self.callbacks, strict=True))

    def with_display(self, display: Callback) -> CallbackList:
        """The same with a callback that only shows something, and that no checkpoint knows of."""
        more = copy.copy(self)
        hooks = {hook for hook in HOOKS if _overrides(display, hook)}
        more._listeners = {h: [*cs, *([display] if h in hooks else [])] for h, cs in self._listeners.items()}
        called = hooks if ranks.rank() == 0 else set()
        more._called = {h: [*cs, *([display] if h in called else [])] for h, cs in self._called.items()}
        return more

    def call(self, hook: str, trainer: BilevelTrainer, state: TrainerState, *extra: Any) -> None:
        """Call one hook of every callback that has it; of those that write, on rank 0 alone."""
        for callback in self._called[hook]:
            getattr(callback, hook)(trainer, state, *extra)

    def call_all(self, hook: str, trainer: BilevelTrainer, state: TrainerState, *extra: Any) -> None:
        """Call one hook as :meth:`call` does, even where some fail; the first failure is raised afterwards."""
        failure: BaseException | None = None
        for callback in self._called[hook]:
            try:
                getattr(callback, hook)(trainer, state, *extra)
            except BaseException as error:
                failure = failure or error
        if failure:
            raise failure

    def listens(self, hook: str) -> bool:
        """Whether any callback has the hook, on this rank or another."""
        return bool(self._listeners[hook])


def _overrides(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook) or hook in vars(callback)

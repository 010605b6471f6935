"""The progress that ``fit`` shows by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import sys
from typing import TYPE_CHECKING

from jboat.callbacks.progress_bar import ProgressBar

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer


@contextmanager
def shown(trainer: BilevelTrainer, progress: bool | None) -> Iterator[None]:
    """Let a ProgressBar be among the callbacks inside the block, of which checkpoints know nothing.

    Args:
        trainer: whose callbacks.
        progress: None for a ProgressBar that is silent where there is no terminal, unless the user has given one or a
            logger; True for one in any case, in plain lines where there is no terminal; False for none.
    """
    before = trainer.callbacks
    if progress is False or before.show_bar or (progress is None and before.show_themselves):
        yield
        return
    terminal = sys.stderr is not None and sys.stderr.isatty()
    bar = ProgressBar() if progress is None else ProgressBar(disable=False, lines=None if terminal else True)
    trainer.callbacks = before.with_display(bar)
    try:
        yield
    finally:
        trainer.callbacks = before

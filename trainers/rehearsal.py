"""A rehearsal: every ``fit()`` takes a few steps and leaves no files, as ``python -m jboat warmup`` needs it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import threading

from jboat.callbacks.progress_bar import ProgressBar
from jboat.trainers.callback_list import CallbackList
from jboat.trainers.history_recorder import HistoryRecorder

STEPS = 3
# of the callbacks that record; the others may write into the job's own folders
_HARMLESS = (HistoryRecorder, ProgressBar)
_under_way = threading.Event()


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Until the block ends, every ``fit()`` of this process is a rehearsal, whichever thread calls it."""
    _under_way.set()
    try:
        yield
    finally:
        _under_way.clear()


def under_way() -> bool:
    """Whether a rehearsal is under way."""
    return _under_way.is_set()


def harmless(callbacks: CallbackList) -> CallbackList:
    """Those of the callbacks that write no files."""
    return CallbackList(c for c in callbacks.callbacks if c.rank == 0 or isinstance(c, _HARMLESS))

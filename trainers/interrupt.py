"""Ctrl-C and SIGTERM that wait for the end of the outer step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jboat.backend import signal_actions

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedFit(KeyboardInterrupt):
    """A signal ended ``fit``.

    Attributes:
        at_once: whether it was a second one, which ends the step under way; the trainer may then stand half way
            through an update.
    """

    def __init__(self, message: str, *, at_once: bool) -> None:
        super().__init__(message)
        self.at_once = at_once


class DeferredInterrupt:
    """Inside the block the first SIGINT or SIGTERM is noted and raised where it does no harm, a second one at once.

    A signal that is ignored stays so. Signals reach the main thread alone, so in another thread the block does nothing.

    Attributes:
        received: the last signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._came = False
        self._previous: dict[signal.Signals, Any] = {}
        self._actions: dict[signal.Signals, Any] = {}

    def __enter__(self) -> DeferredInterrupt:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if previous is signal.SIG_IGN:
                continue
            if previous is None:  # set from C, which Python can neither tell nor set
                self._actions[number] = signal_actions.action(number)
            self._previous[number] = previous
            signal.signal(number, self._note)
        _in_force.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _in_force:
            _in_force.remove(self)
            self.restore()

    def restore(self) -> None:
        """Put the handlers back that were in force before the block."""
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
            if previous is None:
                signal_actions.set_action(number, self._actions[number])

    def _note(self, number: int, frame: FrameType | None) -> None:
        second, self._came = self._came, True
        self.received = signal.Signals(number)
        if second:
            raise InterruptedFit(f"a second signal, {self.received.name}, ended fit", at_once=True)

    def adopt(self, received: signal.Signals) -> None:
        """Take a signal that came to another rank for one's own."""
        self.received = received

    def raise_if_requested(self) -> None:
        """Raise :class:`InterruptedFit` if a signal came."""
        if self.received is not None:
            raise InterruptedFit(f"{self.received.name} ended fit", at_once=False)

    def deliver(self, message: str) -> None:
        """After the block: do what the signal that came would have done outside ``fit``; without one, nothing.

        A handler of the user's is called, and if it returns, so does this.

        Args:
            message: what the KeyboardInterrupt says.

        Raises:
            KeyboardInterrupt: after SIGINT, where Python's own handler was in force.
            SystemExit: after SIGTERM, where there was no handler; with the shell's exit status for it, 143.
        """
        if self.received is None:
            return
        previous = self._previous.get(self.received)  # another rank's signal may be ignored here
        if callable(previous) and previous is not signal.default_int_handler:
            previous(self.received, None)
        elif self.received is signal.SIGINT:
            raise KeyboardInterrupt(message)
        else:
            raise SystemExit(128 + self.received)


_in_force: list[DeferredInterrupt] = []


_masks: dict[int, set[Any]] = {}  # of each thread that forks


def _hold() -> None:
    """Before a fork: let signals wait, of which the child would lose those that come before it has its handlers."""
    _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS if _in_force else ())


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop(threading.get_ident()))


def _release_child() -> None:
    """A process forked inside the block, such as a loader's worker, ends by a signal as ever."""
    with contextlib.suppress(ValueError):  # of a thread that is not the child's main one
        for interrupt in reversed(_in_force):
            interrupt.restore()
    _in_force.clear()
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_child)

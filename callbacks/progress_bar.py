"""Progress on the terminal, or in plain lines."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from jboat.callbacks.bar_among_messages import BarAmongMessages
from jboat.callbacks.callback import Callback
import jittor as jt
from tqdm.std import tqdm

if TYPE_CHECKING:
    from jboat.backend.kernel_messages import Compiling, KernelMessages
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState

_FIRST_STEP = "first step; Jittor compiles kernels that are new"


class ProgressBar(Callback):
    """Outer steps and epochs done, both losses, speed and the time left.

    On a terminal it is a bar, in a notebook with ipywidgets a widget, in another notebook a plain line every few
    seconds, and silent elsewhere, as where the output goes into a file. How many steps are to come is known where
    ``max_steps`` is given, or ``max_epochs`` and the length of the lower loader. While kernels are compiled, it tells
    how many of how many are, in the place of Jittor's lines "Compiling Operators"; afterwards how many there were.
    Without one, and without a logger, ``fit`` makes one of its own; see its argument ``progress``.

    Args:
        stream: where to draw; by default standard error.
        disable: True or False to say whether to be silent; None to be so where ``stream`` is no terminal.
        lines: whether to write plain lines in place of a bar; None for notebooks without ipywidgets alone.
        every_seconds: how often a plain line is written.

    Raises:
        ValueError: for negative seconds.
    """

    rank = 1
    writes = True

    def __init__(
        self,
        stream: IO[str] | None = None,
        disable: bool | None = None,
        *,
        lines: bool | None = None,
        every_seconds: float = 5.0,
    ) -> None:
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0, got {every_seconds}")
        self._stream = stream
        self._disable = disable
        self._lines = lines
        self._every_seconds = every_seconds
        self._bar: Any = None
        self._messages: BarAmongMessages | None = None
        self._total: int | None = None
        self._first = 0
        self._begun = self._written = 0.0
        self._kernels: _Kernels | None = None
        self._compiling: KernelMessages | None = None
        self._state: TrainerState | None = None

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Draw an empty bar."""
        self._close()
        stream = self._stream or sys.stderr
        notebook = _in_notebook()
        plain = notebook and not _has_widgets() if self._lines is None else self._lines
        seen = plain or notebook or _is_terminal(stream)
        if not seen if self._disable is None else self._disable:
            return
        self._total, self._first = _total(trainer, state), state.step
        self._begun = self._written = time.perf_counter()
        self._kernels, self._state = _Kernels(), state
        self._compiling = trainer.current_run.kernel_messages(self._show_compiling)
        if plain:
            self._bar = _Lines(stream)
            self._bar.write(f"{_epoch(state)}{self._count(state)}: {_FIRST_STEP}")
            return
        kind = _widget() if self._stream is None and notebook else tqdm
        self._bar = kind(
            total=self._total,
            initial=state.step - state.first_step,
            unit="step",
            file=stream,
            **_size(stream),
            desc=f"{_epoch(state)}{_FIRST_STEP}",
        )
        self._messages = BarAmongMessages(self._bar)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance by one step."""
        bar = self._bar
        if bar is None:
            return
        if self._compiling is not None:
            self._compiling.settle()
        if isinstance(bar, _Lines):
            if time.perf_counter() - self._written >= self._every_seconds:
                self._write_line(state)
            return
        first = state.step == self._first + 1
        if first or time.time() - bar.last_print_t >= bar.mininterval:  # it is about to be drawn
            self._describe(state)
        bar.update()
        if first:
            bar.refresh()

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Leave the bar as it is."""
        try:
            if isinstance(self._bar, _Lines):
                self._write_line(state)
            elif self._bar is not None:
                self._describe(state)
        finally:
            self._close()

    def _show_compiling(self, now: Compiling) -> None:
        state, bar = self._state, self._bar
        if state is None or bar is None:
            return
        left = f", {tqdm.format_interval(now.seconds_left)} left" if now.done < now.of else ""
        told = f"{_epoch(state)}compiling kernels {now.done}/{now.of}{left}"
        if not isinstance(bar, _Lines):
            bar.set_description_str(told)
        elif time.perf_counter() - self._written >= self._every_seconds:
            self._written = time.perf_counter()
            bar.write(f"{_epoch(state)}{self._count(state)}: {told.removeprefix(_epoch(state))}")

    def _close(self) -> None:
        compiling, self._compiling, self._state = self._compiling, None, None
        bar, messages, self._bar, self._messages = self._bar, self._messages, None, None
        try:
            if messages is not None:
                messages.end()
            if bar is not None:
                bar.close()
        finally:
            if compiling is not None:
                compiling.end()

    def _describe(self, state: TrainerState) -> None:
        self._bar.set_description_str(_epoch(state).removesuffix(", "), refresh=False)
        self._bar.set_postfix_str(self._numbers(state), refresh=False)

    def _numbers(self, state: TrainerState) -> str:
        numbers = {name: state.metrics[name] for name in ("ll_loss", "ul_loss") if name in state.metrics}
        shown = [f"{name}={value:.4g}" for name, value in (numbers | state.validation).items()]
        compiled = self._kernels.new() if self._kernels else 0
        return ", ".join([*shown, *([f"kernels compiled={compiled}"] if compiled else [])])

    def _count(self, state: TrainerState) -> str:
        done = state.step - state.first_step
        return f"step {done}" if self._total is None else f"step {done}/{self._total}"

    def _write_line(self, state: TrainerState) -> None:
        now, taken = time.perf_counter(), state.step - self._first
        self._written = now
        speed = taken / (now - self._begun) if taken and now > self._begun else 0.0
        parts = [f"{_epoch(state)}{self._count(state)}", self._numbers(state)]
        if speed:
            parts.append(f"{speed:.3g} steps/s")
        left = None if self._total is None else self._total - (state.step - state.first_step)
        if left and speed:
            parts.append(f"{tqdm.format_interval(left / speed)} left")
        self._bar.write(", ".join(part for part in parts if part))


class _Lines:
    """Plain lines on a stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """There is nothing to close."""


class _Kernels:
    """How many kernels this machine's cache has got since this was made."""

    def __init__(self) -> None:
        self._folder = os.path.join(jt.flags.cache_path, "jit")
        self._changed = self._stamp()
        self._before = self._number()
        self._new = 0

    def new(self) -> int:
        """The number; the folder is listed only where it has changed."""
        stamp = self._stamp()
        if stamp != self._changed:
            self._changed, self._new = stamp, self._number() - self._before
        return self._new

    def _stamp(self) -> int:
        try:
            return os.stat(self._folder).st_mtime_ns
        except OSError:
            return 0

    def _number(self) -> int:
        try:
            return sum(name.endswith(".so") for name in os.listdir(self._folder))
        except OSError:
            return 0


def _epoch(state: TrainerState) -> str:
    """Which epoch it is of how many; empty where epochs do not matter."""
    if state.max_epochs is None:
        return ""
    of = state.max_epochs - state.first_epoch
    return f"epoch {min(state.epoch - state.first_epoch + 1, of)}/{of}, "


def _total(trainer: BilevelTrainer, state: TrainerState) -> int | None:
    """How many outer steps the ``fit`` has from its beginning, where that is known."""
    per_epoch = trainer.current_run.steps_per_epoch()
    totals = [] if state.max_steps is None else [state.max_steps - state.first_step]
    if state.max_epochs is not None and per_epoch is not None:
        totals.append(-int(-(state.max_epochs - state.first_epoch) * per_epoch // 1))
    return min(totals, default=None)


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a closed stream raises the second
        return False


def _size(stream: IO[str]) -> dict[str, Any]:
    """The terminal's size, as it changes; one that says 0, as some in containers do, would show nothing."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return {"dynamic_ncols": True}
    return {"dynamic_ncols": True} if columns and lines else {"ncols": columns or 80, "nrows": lines or 24}


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None


def _widget() -> Any:
    from tqdm.notebook import tqdm_notebook

    return tqdm_notebook

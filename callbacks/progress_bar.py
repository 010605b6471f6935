"""A progress bar on the terminal."""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING, Any

from jboat.callbacks.callback import Callback
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.trainer_state import TrainerState


class ProgressBar(Callback):
    """Outer steps done, both losses, speed and the time left; silent where the output is no terminal.

    Args:
        stream: where to draw; by default standard error.
        disable: True or False to say whether to be silent; None to be so where ``stream`` is no terminal.
    """

    rank = 1
    writes = True

    def __init__(self, stream: IO[str] | None = None, disable: bool | None = None) -> None:
        self._stream = stream
        self._disable = disable
        self._bar: Any = None

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Draw an empty bar."""
        total = None if state.max_steps is None else state.max_steps - state.step
        self._bar = tqdm(
            total=total, unit="step", file=self._stream or sys.stderr, disable=self._disable, dynamic_ncols=True
        )

        self._bar.set_description("first step; Jittor compiles kernels that are new", refresh=True)

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Advance by one step."""
        bar = self._bar
        if bar.n == 0:
            bar.set_description(refresh=False)
        if not bar.disable and time.time() - bar.last_print_t >= bar.mininterval:  # it is about to be drawn
            self._describe(state)
        bar.update()

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._describe(state)
            self._bar.close()
            self._bar = None

    def _describe(self, state: TrainerState) -> None:
        numbers = {name: state.metrics[name] for name in ("ll_loss", "ul_loss") if name in state.metrics}
        shown = {name: f"{value:.4g}" for name, value in (numbers | state.validation).items()}
        self._bar.set_postfix(shown, refresh=False)

"""Metrics for TensorBoard."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING

from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.hypergradient_result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState

_number = itertools.count()


class TensorBoardLogger(Callback):
    """Every metric as a scalar against the outer step, the configuration as text; more on request.

    Metrics are in the groups ``train``, ``val`` (evaluations) and ``wall_seconds`` (the times).

    Args:
        folder: where to write; by default the trainer's ``logger_dir``.
        every_n_steps: log one step in so many.
        histograms: draw a histogram of each upper-level variable every so many steps; 0 for never.
        lower_curves: draw the lower loss against the inner step, a curve of its own named after the outer step, every
            so many steps; 0 for never.
        flush_seconds: write to the file after so many seconds, and at the end. Between, events wait in memory: one
            that is written alone costs several times its share of a batch.

    Raises:
        ValueError: for a number out of range.
    """

    rank = 1

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every_n_steps: int = 1,
        histograms: int = 0,
        lower_curves: int = 0,
        flush_seconds: float = 5.0,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        for name, steps in (("histograms", histograms), ("lower_curves", lower_curves)):
            if steps < 0:
                raise ValueError(f"{name} must be a number of steps, or 0 for never, got {steps}")
        if not flush_seconds >= 0:
            raise ValueError(f"flush_seconds must be at least 0, got {flush_seconds}")
        self._folder = None if folder is None else Path(folder)
        self._every = every_n_steps
        self._histograms = histograms
        self._lower_curves = lower_curves
        self._flush_seconds = flush_seconds
        self._writer: EventsWriter | None = None
        self._waiting: list[tuple[float, int, dict[str, float]]] = []
        self._flushed = 0.0

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open an event file of this run's own and write the configuration."""
        folder = log_folder(self._folder, trainer, "TensorBoardLogger")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{next(_number)}")
        configuration = json.dumps(trainer.configuration(), indent=1)
        self._write(time.time(), state.step, summary.text("configuration", f"```\n{configuration}\n```"))
        self._flush()

    def wants_lower_losses(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """For a step whose curve is drawn."""
        return self._lower_curves > 0 and (state.step + 1) % self._lower_curves == 0

    def on_hypergradient_end(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Write the curve of the lower losses."""
        if self.wants_lower_losses(trainer, state):
            for inner_step, loss in enumerate(result.ll_losses):
                self._waiting.append((time.time(), inner_step, {f"lower_loop/step_{state.step + 1}": loss}))

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the step's numbers, and write what waits when it is time."""
        if state.step % self._every == 0:
            numbers = {_tag(n): v for n, v in state.metrics.items() if n not in state.validation}
            self._waiting.append((time.time(), state.step, numbers))
        if self._histograms and state.step % self._histograms == 0:
            names = {id(p): name for name, p in trainer.ul_model.named_parameters()}
            for i, variable in enumerate(trainer.ul_var):
                tag = f"upper_variables/{names.get(id(variable), i)}"
                histogram = summary.histogram(tag, variable.numpy(), bins="auto")
                self._write(time.time(), state.step, histogram)
        if time.perf_counter() - self._flushed >= self._flush_seconds:
            self._flush()

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the evaluation's numbers."""
        self._waiting.append((time.time(), state.step, {_tag(n): v for n, v in state.validation.items()}))

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write what waits and close the event file."""
        if self._writer is not None:
            try:
                self._flush()
            finally:
                self._writer.close()
                self._writer = None

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for when, step, numbers in waiting:
            self._write(when, step, Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in numbers.items()]))
        if self._writer is not None:
            self._writer.flush()
        self._flushed = time.perf_counter()

    def _write(self, when: float, step: int, values: Summary) -> None:
        if self._writer is not None:
            self._writer.write_event(Event(wall_time=when, step=step, summary=values))


def _tag(name: str) -> str:
    """TensorBoard groups tags by what precedes the slash, in alphabetical order: losses first, times last."""
    for prefix, group in (("val_", "val"), ("time_", "wall_seconds")):
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"train/{name}"

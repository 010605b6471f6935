"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
import re
import time
from typing import TYPE_CHECKING, Any

from jboat.callbacks import argument_checks
from jboat.callbacks.callback import Callback
from jboat.callbacks.log_folder import log_folder
from jboat.callbacks.saved_values import is_count
from jboat.callbacks.write_errors import naming

if TYPE_CHECKING:
    from jboat.callbacks.event_file import EventFile
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState


class TensorBoardLogger(Callback):
    """Every metric as a scalar against the outer step, the configuration and the summary as text; more on request.

    ``loss/ul_loss`` comes first, with ``loss/val_ul_loss`` beside it; the other metrics are in the groups ``train``,
    ``val`` (evaluations), ``wall_seconds`` (times) and ``wall_shares`` (StepTimer's). The tab of custom scalars has one
    chart for each metric with its evaluation, the tab of hyperparameters the configuration and the final numbers.

    A run that goes on, by another ``fit`` or from a checkpoint, opens another event file in the folder, which tells
    TensorBoard to forget what lies after the step it starts from and repeats the scalars that a killed run had not
    written yet: every step is shown once. A new run in the folder of an old one replaces it. TensorBoard forgets by the
    number on the horizontal axis alone, which for the curves of the lower loss is the inner step: those of outer steps
    that are repeated may show their beginning twice.

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
    writes = True

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every_n_steps: int = 1,
        histograms: int = 0,
        lower_curves: int = 0,
        flush_seconds: float = 5.0,
    ) -> None:
        argument_checks.count("every_n_steps", every_n_steps)
        for name, steps in (("histograms", histograms), ("lower_curves", lower_curves)):
            if argument_checks.integer(name, steps) < 0:
                raise ValueError(f"{name} must be a number of steps, or 0 for never, got {steps}")
        argument_checks.at_least_zero("flush_seconds", flush_seconds)
        self._folder = None if folder is None else Path(folder)
        self._every = every_n_steps
        self._histograms = histograms
        self._lower_curves = lower_curves
        self._flush_seconds = flush_seconds
        self._file: EventFile | None = None
        self._waiting: list[tuple[float, int, dict[str, float]]] = []
        self._flushed = 0.0
        self._row: dict[str, float] = {}  # the last step's in the history
        self._told: set[str] = set()  # which of its numbers were handed over
        self._logged = 0  # the last step whose numbers were handed over
        self._written = 0  # the last step whose numbers are in a file
        self._resumed = False

    @property
    def place(self) -> Path | None:
        """The folder it was given."""
        return self._folder

    def state_dict(self) -> dict[str, Any]:
        """The last step whose numbers are in a file: those that wait are written, so that no checkpoint is ahead."""
        self._flush()
        return {"written": self._written}

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Require a number of steps."""
        if state and not is_count(state["written"]):
            raise ValueError("TensorBoardLogger: written must be a step")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        if state:
            self._written, self._resumed = state["written"], True

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Open an event file of this run's own."""
        self._waiting = []
        self._row, self._told = {}, set()
        self._resumed = False
        folder = log_folder(self._folder, trainer, "TensorBoardLogger")
        folder.mkdir(parents=True, exist_ok=True)
        from jboat.callbacks.event_file import EventFile  # tensorboardX takes a while to import

        with naming(folder):
            self._file = EventFile(folder)

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Begin where the run stands, with the configuration and what is missing of the steps before."""
        # the evaluation of the last step is repeated after a resume unless the history has it
        self._written = min(self._written, max(0, state.step - 1) if self._resumed else state.step)
        self._resumed = False
        first = self._written + 1 if state.step else 0
        if self._file is not None:
            self._file.start_session(first)
        for row in trainer.history:
            if row["step"] > self._written:
                numbers = {n: v for n, v in row.items() if n not in ("step", "epoch")}
                self._keep(int(row["step"]), {n: v for n, v in numbers.items() if not n.startswith("val_")})
                self._keep_evaluation(int(row["step"]), {n: v for n, v in numbers.items() if n.startswith("val_")})
        if 0 < first <= state.step:
            self._draw_histograms(trainer, state)
        configuration = json.dumps(trainer.configuration(), indent=1)
        if self._file is not None:
            self._file.text(state.step, "configuration", f"```\n{configuration}\n```")
            self._file.text(state.step, "summary", f"```\n{trainer.summary()}\n```")
            self._file.charts(_charts(state))
            metrics = ["ul_loss", "ll_loss", *(state.evaluation_metrics or ())]
            self._file.hyperparameters(_flat(trainer.configuration()), [_tag(name) for name in metrics])
        self._logged = state.step
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
        self._keep_late()
        self._keep(state.step, {n: v for n, v in state.metrics.items() if n not in state.validation})
        self._row, self._told = trainer.history.rows[-1], set(trainer.history.rows[-1])
        self._draw_histograms(trainer, state)
        if time.perf_counter() - self._flushed >= self._flush_seconds:
            self._flush()

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Keep the evaluation's numbers."""
        self._keep_evaluation(state.step, state.validation)
        self._told.update(state.validation)

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write what waits and close the event file."""
        if self._file is not None:
            try:
                self._keep_late()
                self._flush()
                self._file.end_hyperparameters()
            finally:
                file, self._file = self._file, None
                with naming(file.path):
                    file.close()

    def _draw_histograms(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Write those of the upper variables, one step in so many."""
        if self._file is not None and self._histograms and state.step % self._histograms == 0:
            names = {id(p): name for name, p in trainer.ul_model.named_parameters()}
            for i, variable in enumerate(trainer.ul_var):
                tag = f"upper_variables/{names.get(id(variable), i)}"
                self._file.histogram(state.step, tag, variable.numpy())

    def _keep(self, step: int, numbers: dict[str, float]) -> None:
        """Let the numbers of a step wait, one step in so many."""
        self._logged = step
        if step % self._every == 0:
            self._waiting.append((time.time(), step, {_tag(n): v for n, v in numbers.items()}))

    def _keep_evaluation(self, step: int, numbers: dict[str, float]) -> None:
        """Let the numbers of an evaluation wait."""
        if numbers:
            self._waiting.append((time.time(), step, {_tag(n): v for n, v in numbers.items()}))

    def _keep_late(self) -> None:
        """Let the numbers wait that joined the last step's row after the step."""
        late = {name: value for name, value in self._row.items() if name not in self._told}
        self._told.update(late)
        if late:
            self._keep_evaluation(int(self._row["step"]), late)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._file is not None:
            with naming(self._file.path):
                for when, step, numbers in waiting:
                    self._file.numbers(when, step, numbers)
                self._file.flush()
        self._written = self._logged
        self._flushed = time.perf_counter()


def _tag(name: str) -> str:
    """TensorBoard groups tags by what precedes the slash, in alphabetical order: the upper loss first, times last."""
    if name in ("ul_loss", "val_ul_loss"):
        return f"loss/{name}"
    for prefix, group in (("val_", "val"), ("time_", "wall_seconds"), ("share_", "wall_shares")):
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"train/{name}"


def _charts(state: TrainerState) -> dict[str, dict[str, list[str]]]:
    """Tags, as regular expressions, by group and chart: what a step and an evaluation measure alike in one."""
    evaluated = [name.removeprefix("val_") for name in state.evaluation_metrics or () if name != "val_ul_loss"]
    both = {name: [rf"(train|val)/{re.escape(name)}"] for name in evaluated}
    losses = {"ul_loss": ["loss/(val_)?ul_loss"], "ll_loss": ["train/ll_loss"]}
    return {
        "losses": losses,
        **({"training and evaluation": both} if both else {}),
        "hypergradient": {"norm": ["train/hypergradient_norm"], "learning rates": ["train/(ll|ul)_lr"]},
        "time": {"seconds": ["wall_seconds/.*"], "shares": ["wall_shares/.*"]},
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Nested tables as one, with dotted names."""
    flat: dict[str, bool | float | str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        elif isinstance(value, (list, tuple)):
            flat[name] = ", ".join(str(entry) for entry in value)
        elif value is not None:
            flat[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat

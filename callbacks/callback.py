"""The base class of callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboat.spelled_keywords import spelled_keywords

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer
    from jboat.trainers.outer_step.result import HyperGradientResult
    from jboat.trainers.trainer_state import TrainerState

HOOKS = (
    "setup",
    "on_fit_start",
    "on_epoch_start",
    "on_step_start",
    "on_lower_loop_start",
    "on_lower_step_end",
    "on_lower_loop_end",
    "on_hypergradient_start",
    "on_hypergradient_end",
    "on_before_upper_step",
    "on_step_end",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_epoch_end",
    "on_exception",
    "on_fit_end",
    "teardown",
)


class Callback:
    """Something that happens while a trainer runs; override the hooks you need.

    Besides what users have, ``trainer.current_run`` answers a hook: the batches of the step, whether it is finite, the
    value at another x, the lower gradient's norm; see :class:`jboat.trainers.run.Run`.

    Attributes:
        rank: callbacks of a lower rank run first: 0 for those that change or add something, 1 for those that read
            metrics, such as loggers and early stopping, 2 for checkpoints.
        writes: whether its hooks do nothing but write files or to the terminal. Of several processes (``mpirun``) that
            of rank 0 alone calls them; other callbacks' are called in each, and must do the same in each.
        later_metrics: names of metrics that it adds to ``state.metrics`` at some steps only.
    """

    rank = 0
    writes = False
    later_metrics: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let misspelt arguments be told with the nearest spelling."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = spelled_keywords(cls.__init__)  # type: ignore[method-assign]

    @property
    def key(self) -> str:
        """What tells this callback from the others of a trainer: its class and, if needed, arguments."""
        return type(self).__name__

    @property
    def place(self) -> Path | None:
        """The folder that it writes to: two callbacks may have the same key if their folders differ.

        None stands for the trainer's ``logger_dir``, and is right where nothing is written.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: numbers, strings, lists and dicts."""
        return {}

    def check_state_dict(self, trainer: BilevelTrainer, state: dict[str, Any]) -> None:
        """Before a checkpoint is used: refuse a state that :meth:`state_dict` cannot have given.

        A checkpoint may come from anyone. An exception refuses it before anything of the trainer has changed.

        Raises:
            ValueError: if the state is of another kind.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""

    def wants_lower_losses(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether the results of the outer step that begins should hold the lower loss of every inner step.

        They cost K more evaluations of the lower objective, and are read as ``result.ll_losses`` in
        :meth:`on_hypergradient_end`. First-order methods and DM have none.
        """
        return False

    def wants_measured_values(self, trainer: BilevelTrainer, state: TrainerState) -> bool:
        """Whether ``trainer.current_run.measured_values()`` is wanted after steps; asked once, when ``fit`` starts."""
        return False

    def setup(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before anything else: open files here."""

    def on_fit_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before the first epoch."""

    def on_epoch_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before a pass over the lower loader."""

    def on_step_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before an outer step, its batches drawn."""

    def on_lower_loop_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before the lower steps of one hypergradient."""

    def on_lower_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After a lower step; ``state.inner_step`` counts it."""

    def on_lower_loop_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After the lower steps of one hypergradient."""

    def on_hypergradient_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before the hypergradient chain."""

    def on_hypergradient_end(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """After the hypergradient chain; once for each hypergradient of an accumulated step, or chunk of tasks."""

    def on_before_upper_step(self, trainer: BilevelTrainer, state: TrainerState, result: HyperGradientResult) -> None:
        """Before the upper step, which moves along ``result.gradients``: change them here."""

    def on_step_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After an outer step; ``state.metrics`` holds its numbers."""

    def on_evaluate_start(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """Before an evaluation within ``fit``."""

    def on_evaluate_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After an evaluation within ``fit``; its numbers are in ``state.metrics`` as ``val_...``."""

    def on_epoch_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After a pass over the lower loader."""

    def on_exception(self, trainer: BilevelTrainer, state: TrainerState, exception: BaseException) -> None:
        """When ``fit`` fails or is interrupted; the exception goes on afterwards."""

    def on_fit_end(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After the last step of a ``fit`` that did not fail."""

    def teardown(self, trainer: BilevelTrainer, state: TrainerState) -> None:
        """After everything else, whatever happened: close files here."""

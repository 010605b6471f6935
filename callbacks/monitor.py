"""Follow one metric and tell when it improves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jboat.trainers.trainer_state import TrainerState

Mode = Literal["min", "max"]


class Monitor:
    """The best value of a metric so far.

    Args:
        name: the metric.
        mode: whether less or more is better.
        min_delta: what counts as an improvement: a change by more than this.

    Raises:
        ValueError: for another mode or a negative ``min_delta``.

    Attributes:
        best: the best value seen, or None.
    """

    def __init__(self, name: str, mode: Mode, min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        if not min_delta >= 0.0:
            raise ValueError(f"min_delta must be at least 0, got {min_delta}")
        self.name = name
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None

    @property
    def from_evaluation(self) -> bool:
        """Whether the metric comes from an evaluation rather than from every step."""
        return self.name.startswith("val_")

    def read(self, state: TrainerState) -> float:
        """The metric's present value.

        Raises:
            ValueError: if there is no such metric.
        """
        if self.name not in state.metrics:
            hint = "; give fit() a val_loader" if self.from_evaluation else ""
            raise ValueError(
                f"there is no metric {self.name!r} at step {state.step}; there are {', '.join(state.metrics)}{hint}"
            )
        return state.metrics[self.name]

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` is better than ``than`` by more than ``min_delta``; NaN never is."""
        if math.isnan(value):
            return False
        return value < than - self.min_delta if self.mode == "min" else value > than + self.min_delta

    def as_good(self, value: float, bound: float) -> bool:
        """Whether ``value`` is at least as good as ``bound``; NaN never is."""
        return value <= bound if self.mode == "min" else value >= bound

    def improve(self, value: float) -> bool:
        """Take ``value`` as the best if it is; tells whether it was."""
        improved = not math.isnan(value) and (self.best is None or self.better(value, self.best))
        if improved:
            self.best = value
        return improved

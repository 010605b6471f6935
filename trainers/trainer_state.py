"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
import enum


class StopReason(enum.Enum):
    """Why ``fit`` ended."""

    MAX_EPOCHS = "max_epochs"
    MAX_STEPS = "max_steps"
    MAX_TIME = "max_time"
    EARLY_STOPPING = "early_stopping"
    CALLBACK = "callback"
    INTERRUPTED = "interrupted"


@dataclass
class TrainerState:
    """Where a run stands; every callback gets it.

    Attributes:
        step: outer steps finished since the trainer was made.
        epoch: epochs finished since the trainer was made.
        inner_step: the lower step just finished, counted from 1.
        metrics: plain floats by name: those of the step just finished and of the last evaluation.
        validation: the numbers of the last evaluation alone, each named ``val_...``.
        stop_reason: why the run stops after this step, or None.
        max_steps: the step at which this ``fit`` ends, or None.
        max_epochs: the epoch at which this ``fit`` ends, or None.
        elapsed: seconds since this ``fit`` began.
    """

    step: int = 0
    epoch: int = 0
    inner_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    stop_reason: StopReason | None = None
    max_steps: int | None = None
    max_epochs: int | None = None
    elapsed: float = 0.0

    def request_stop(self, reason: StopReason = StopReason.CALLBACK) -> None:
        """Ask ``fit`` to end after the present outer step; the first reason given stands.

        Raises:
            TypeError: if ``reason`` is not a StopReason.
        """
        if not isinstance(reason, StopReason):
            raise TypeError(f"reason must be a StopReason, got {reason!r}; use one of {[r.name for r in StopReason]}")
        self.stop_reason = self.stop_reason or reason

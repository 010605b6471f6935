"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
import enum

from jboat.stop_reason import StopReason


class Phase(str, enum.Enum):
    """What was done last of a pass through the loop of ``fit``; a checkpoint keeps the value."""

    START = "start"
    NEXT = "next"
    STEP = "step"
    STEP_EVALUATED = "step evaluated"
    EPOCH = "epoch"
    EPOCH_EVALUATED = "epoch evaluated"
    EPOCH_END = "epoch end"

    @property
    def between_epochs(self) -> bool:
        """Whether an epoch is to begin, or the run to end."""
        return self in (Phase.START, Phase.EPOCH_END)

    @property
    def ends_step(self) -> bool:
        """Whether a finished step is still being dealt with."""
        return self not in (Phase.START, Phase.NEXT, Phase.EPOCH_END)

    @property
    def in_pass(self) -> bool:
        """Whether the pass over the lower loader goes on."""
        return self in (Phase.NEXT, Phase.STEP, Phase.STEP_EVALUATED)


@dataclass
class TrainerState:
    """Where a run stands; every callback gets it.

    Attributes:
        step: outer steps finished since the trainer was made.
        epoch: epochs finished since the trainer was made.
        inner_step: the lower step just finished, counted from 1.
        phase: what was done last of a pass through the loop, by name: ``"start"``, ``"next"`` (an outer step is due),
            ``"step"``, ``"step evaluated"``, ``"epoch"``, ``"epoch evaluated"``, ``"epoch end"``; a resumed run goes on
            from there.
        metrics: plain floats by name: those of the step just finished and of the last evaluation.
        validation: the numbers of the last evaluation alone, each named ``val_...``.
        step_metrics: the trainer's own metrics of the step just finished, measured before the upper step; empty until
            this ``fit`` has finished one.
        step_left_out: whether a callback had the step just finished move nothing, as NaNGuard does; what it measured
            counts for nobody who follows a metric.
        evaluation_metrics: what evaluations of this ``fit`` give, each named ``val_...``; empty without ``val_loader``,
            None where an overridden ``evaluation_step`` alone can tell.
        stop_reason: why the run stops after this step, or None.
        first_step: the step at which this ``fit``, or the one it resumes, began.
        first_epoch: the epoch at which it began.
        max_steps: the step at which this ``fit`` ends, or None.
        max_epochs: the epoch at which this ``fit`` ends, or None.
        elapsed: seconds since this ``fit`` began, those of the run it resumes included.
    """

    step: int = 0
    epoch: int = 0
    inner_step: int = 0
    phase: Phase = Phase.START
    metrics: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    step_metrics: dict[str, float] = field(default_factory=dict)
    step_left_out: bool = False
    evaluation_metrics: tuple[str, ...] | None = ()
    stop_reason: StopReason | None = None
    first_step: int = 0
    first_epoch: int = 0
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

    def begin_fit(self, *, resumed: bool, max_epochs: int | None, max_steps: int | None) -> None:
        """Set the limits of a ``fit``: counted from where it starts or, resumed, from where the saved one started."""
        if not resumed:
            self.first_step, self.first_epoch, self.elapsed = self.step, self.epoch, 0.0
            self.phase = Phase.START
            self.stop_reason = None
        self.max_steps = None if max_steps is None else self.first_step + max_steps
        self.max_epochs = None if max_epochs is None else self.first_epoch + max_epochs

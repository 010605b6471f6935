"""AMIGO: lower steps and warm-started steps of v on fresh batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jboat import functional
from jboat.levels import Batch
from jboat.registry import register_operator
from jboat.sl_ol.directions import Point
from jboat.sl_ol.lower_steps import LowerSteps
from jboat.sl_ol.single_loop import Keeps, SingleLoopOptions
import jittor as jt


@dataclass(frozen=True)
class AMIGOOptions(SingleLoopOptions):
    """Options of AMIGO.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
        v_steps: number of steps of v, at least 1, each with a batch of its own.
    """

    v_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("v_steps", 1)


@register_operator(
    "sl",
    options=AMIGOOptions,
    cost="lower_iters lower gradients, v_steps + 1 lower gradients with a second derivative, one upper gradient; "
    "lower_iters + v_steps + 1 lower batches and one upper batch; memory of one step",
)
class AMIGO(LowerSteps):
    """``lower_iters`` lower steps on fresh batches, then ``v_steps`` steps of v from where it was, on fresh batches.

    v moves along ``(d2 f / dy2) v - grad_y F`` at y_K, and x then along ``grad_x F - (d2 f / dx dy) v`` on one more
    lower batch. v starts at zero in the first outer step.

    Source: Arbel and Mairal, "Amortized implicit differentiation for stochastic bilevel optimization", ICLR 2022.
    """

    keeps: ClassVar[Keeps] = {"v": "y"}

    def solver_steps(self) -> int:
        """See :meth:`LowerSteps.solver_steps`."""
        return int(self.options.v_steps)

    def solution(self, point: Point, by_y: Sequence[jt.Var], batches: Sequence[Batch]) -> list[jt.Var]:
        """See :meth:`LowerSteps.solution`."""
        v = point.v
        for batch in batches:
            residual = functional.axpy(-1.0, by_y, self.product(point, v, batch))
            v = functional.cut(self.step_of_v(v, residual))
        return v

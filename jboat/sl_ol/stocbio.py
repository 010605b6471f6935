"""STOCBIO: lower steps and a Neumann series on fresh batches."""

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
class STOCBIOOptions(SingleLoopOptions):
    """Options of STOCBIO.

    Attributes:
        v_lr: step size s of the series, at least 0; 0 for the lower learning rate of each variable.
        terms: number of terms after the first one, at least 1, each with a batch of its own.
    """

    terms: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("terms", 1)


@register_operator(
    "sl",
    options=STOCBIOOptions,
    cost="lower_iters lower gradients, terms + 1 lower gradients with a second derivative, one upper gradient; "
    "lower_iters + terms + 1 lower batches and one upper batch; memory of one step",
)
class STOCBIO(LowerSteps):
    """``lower_iters`` lower steps on fresh batches, then v by a truncated Neumann series with a fresh batch a term.

    ``v = sum_{j=0..terms} (I - s H_j) ... (I - s H_1) s grad_y F`` at y_K, s being the diagonal matrix of step sizes
    and H_j ``d2 f / dy2`` on the j-th of the batches, and x moves along ``grad_x F - (d2 f / dx dy) v`` on one more.
    Nothing of v is remembered. Its fixed point is biased: in every eigenvector of the Hessian v is too small by the
    factor ``1 - (1 - s h)^(terms + 1)``.

    Source: Ji, Yang and Liang, "Bilevel optimization: convergence analysis and enhanced design", ICML 2021 (stocBiO).
    """

    keeps: ClassVar[Keeps] = {}

    def solver_steps(self) -> int:
        """See :meth:`LowerSteps.solver_steps`."""
        return int(self.options.terms)

    def solution(self, point: Point, by_y: Sequence[jt.Var], batches: Sequence[Batch]) -> list[jt.Var]:
        """See :meth:`LowerSteps.solution`."""
        term = total = functional.cut([v * rate for rate, v in zip(self.v_rates(), by_y, strict=True)])
        for batch in batches:
            left = self.step_of_v(term, self.product(point, term, batch))
            term, total = functional.cut_lists(left, functional.axpy(1.0, left, total))
        return total

"""SOBA: stochastic gradient steps of y, v and x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jboat.fo_ol.first_order import Auxiliary
from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.directions import Directions, LowerTerms, Point, UpperTerms, directions
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoop, SingleLoopOptions


@dataclass(frozen=True)
class SOBAOptions(SingleLoopOptions):
    """Options of SOBA.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
    """


@register_operator(
    "sl",
    options=SOBAOptions,
    cost="one gradient of each objective and one second derivative, a batch of each level; memory of one step",
)
class SOBA(SingleLoop):
    """A step each of y, v and x along stochastic directions at one point.

    y moves along ``grad_y f``, v along ``(d2 f / dy2) v - grad_y F`` and x along ``grad_x F - (d2 f / dx dy) v``. All
    three are taken at the values before the step, on one batch of each level, and v starts at zero. With batches
    smaller than all samples it comes to rest only with decreasing step sizes, such as ``LRSchedule`` gives both
    optimizers; the step size of v follows the lower one where it has none of its own.

    DM (sl-BAMM) without GDA and with na_op RAD moves y, v and x along the same directions. Its step sizes decay by
    rules of its own: x moves with the product of both learning rates. With ``DM.tau = 0``, ``DM.eta0 = 1`` and an upper
    learning rate of lr_x / lr_y it takes the steps of SOBA with lr_x and lr_y.

    Source: Dagreou, Ablin, Vaiter and Moreau, "A framework for bilevel optimization that enables stochastic and global
    variance reduction algorithms", NeurIPS 2022.
    """

    keeps: ClassVar[Keeps] = {"v": "y"}

    def estimates(
        self,
        lower: LowerTerms,
        upper: UpperTerms,
        point: Point,
        batches: StepBatches,
        current_iter: int,
        kept: Kept,
    ) -> tuple[Directions, Auxiliary]:
        """See :meth:`SingleLoop.estimates`."""
        return directions(lower, upper), {}

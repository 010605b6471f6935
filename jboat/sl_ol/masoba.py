"""MASOBA: SOBA with a moving average of the direction of x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jboat.fo_ol.first_order import Auxiliary
from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.directions import Directions, LowerTerms, Point, UpperTerms, directions
from jboat.sl_ol.estimators import MovingAverage
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoop, SingleLoopOptions


@dataclass(frozen=True)
class MASOBAOptions(SingleLoopOptions):
    """Options of MASOBA.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
        theta: weight of the present direction of x in the average, positive and at most 1; 1 gives SOBA.
    """

    theta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("theta", 0.0 < self.theta <= 1.0, "positive and at most 1")


@register_operator(
    "sl",
    options=MASOBAOptions,
    cost="one gradient of each objective and one second derivative, a batch of each level; memory of one step",
)
class MASOBA(SingleLoop):
    """SOBA whose x moves along a moving average ``h = (1 - theta) h + theta D_x`` of its direction.

    h starts as the first step's direction, where the paper's starts at zero, and x moves along the new h.

    Source: Chen, Xiao and Balasubramanian, "Optimal algorithms for stochastic bilevel optimization under relaxed
    smoothness conditions", JMLR 2024 (MA-SOBA).
    """

    keeps: ClassVar[Keeps] = {"v": "y", "d_x": "x"}

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
        now = directions(lower, upper)
        average = MovingAverage(self.options.theta)(now.x, kept.get("d_x"))
        return now._replace(x=average), {"d_x": average}

    def share_of_present(self, kept: Kept) -> float:
        """See :meth:`SingleLoop.share_of_present`."""
        return float(self.options.theta) if "d_x" in kept else 1.0

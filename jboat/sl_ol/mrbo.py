"""MRBO: STORM estimates of all three directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.estimators import Storm
from jboat.sl_ol.recursive import Recursive
from jboat.sl_ol.single_loop import Kept, SingleLoopOptions


@dataclass(frozen=True)
class MRBOOptions(SingleLoopOptions):
    """Options of MRBO.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
        eta: how much of the past is forgotten in a step, from 0 to 1; 1 gives SOBA.
    """

    eta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("eta", 0.0 <= self.eta <= 1.0, "from 0 to 1")


@register_operator("sl", options=MRBOOptions, cost="twice that of SOBA; memory of one step")
class MRBO(Recursive):
    """SOBA with the recursive momentum of STORM for all three directions.

    Each is estimated by ``d = g(z; xi) + (1 - eta) (d - g(z'; xi))``, g being the direction on the batches xi of the
    step, z = (x, y, v) its point and z' that of the step before; at the first step d is g. The paper solves for v by a
    Neumann series in every step; here v moves on by one step, as y and x do.

    Source: Yang, Ji and Liang, "Provably faster algorithms for bilevel optimization", NeurIPS 2021.
    """

    def estimators(self, batches: StepBatches, current_iter: int, kept: Kept) -> Mapping[str, Storm]:
        """See :meth:`Recursive.estimators`."""
        return dict.fromkeys(self.recursive, Storm(self.options.eta))

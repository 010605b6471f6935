"""SUSTAIN: STORM estimates of the directions of y and x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.estimators import Storm
from jboat.sl_ol.recursive import Recursive
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoopOptions


@dataclass(frozen=True)
class SUSTAINOptions(SingleLoopOptions):
    """Options of SUSTAIN.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
        eta_y: how much of the past is forgotten in a step for y, from 0 to 1.
        eta_x: the same for x.
    """

    eta_y: float = 0.5
    eta_x: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eta_y", "eta_x"):
            self.require(name, 0.0 <= getattr(self, name) <= 1.0, "from 0 to 1")


@register_operator("sl", options=SUSTAINOptions, cost="twice that of SOBA; memory of one step")
class SUSTAIN(Recursive):
    """SOBA with the recursive momentum of STORM for y and x, each with a weight of its own; v as in SOBA.

    Their directions are estimated by ``d = g(z; xi) + (1 - eta) (d - g(z'; xi))``, g being the direction on the batches
    xi of the step, z = (x, y, v) its point and z' that of the step before; at the first step d is g. The paper solves
    for v by a Neumann series of random length in every step; here v moves on by one step, as y and x do.

    Source: Khanduri, Zeng, Hong, Wai, Wang and Yang, "A near-optimal algorithm for stochastic bilevel optimization via
    double-momentum", NeurIPS 2021.
    """

    keeps: ClassVar[Keeps] = {"v": "y", "d_y": "y", "d_x": "x", "x_before": "x", "y_before": "y", "v_before": "y"}
    recursive = ("y", "x")

    def estimators(self, batches: StepBatches, current_iter: int, kept: Kept) -> Mapping[str, Storm]:
        """See :meth:`Recursive.estimators`."""
        return {"y": Storm(self.options.eta_y), "x": Storm(self.options.eta_x)}

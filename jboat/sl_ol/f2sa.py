"""F2SA: a penalty that grows, with first derivatives alone."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import ClassVar

from jboat import functional
from jboat.outer_step import OuterStep
from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoop, SingleLoopOptions
import jittor as jt


@dataclass(frozen=True)
class F2SAOptions(SingleLoopOptions):
    """Options of F2SA.

    Attributes:
        v_lr: step size of z, at least 0; 0 for the lower learning rate of each variable.
        lambda_init: weight lambda of the lower objective at the first outer step, positive.
        lambda_power: how lambda grows, at least 0: ``lambda_init (k + 1)^lambda_power`` in outer step k, from 0.
        lambda_max: the largest lambda, at least ``lambda_init``.
    """

    lambda_init: float = 10.0
    lambda_power: float = 1.0 / 7.0
    lambda_max: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("lambda_init", 0.0 < self.lambda_init < math.inf, "positive and finite")
        self.require("lambda_power", self.lambda_power >= 0.0, "at least 0")
        self.require("lambda_max", self.lambda_init <= self.lambda_max < math.inf, "at least lambda_init, and finite")


@register_operator(
    "sl",
    options=F2SAOptions,
    cost="two lower gradients and an upper one, each by x and y; a batch of each level; memory of one step",
)
class F2SA(SingleLoop):
    """y follows f, z follows ``F + lambda f``, and x moves along ``grad_x F(z) + lambda (grad_x f(z) - grad_x f(y))``.

    All gradients are taken at the values before the step, on one batch of each level. y is moved by the user's lower
    optimizer, z, which starts at y, by a plain step of size ``v_lr`` along ``grad_y f(z) + grad_y F(z) / lambda``: the
    paper's steps for z, whose sizes shrink as lambda grows, come to the same. ``ul_loss`` is F at z.

    Its fixed point is biased by a distance of order 1 / lambda. In float32 a lambda beyond some thousands drowns the
    difference of the two gradients in rounding.

    Source: Kwon, Kwon, Wright and Nowak, "A fully first-order method for stochastic bilevel optimization", ICML 2023.
    """

    keeps: ClassVar[Keeps] = {"z": "y"}

    def needs_second_derivatives(self) -> bool:
        """It needs none."""
        return False

    def optimize(self, batches: StepBatches, current_iter: int, kept: Kept) -> OuterStep:
        """See :meth:`SingleLoop.optimize`."""
        options = self.options
        weight = min(options.lambda_max, options.lambda_init * (current_iter + 1) ** options.lambda_power)
        lower_batch, upper_batch = batches.lower[0], batches.upper[0]
        y = self.start()
        z = functional.detached(kept.get("z", y))
        at_y = self.lower_gradients(y, lower_batch)
        at_z = self.lower_gradients(z, lower_batch)
        upper = self.gradients(lambda p: self.upper_value(p, upper_batch), z)
        gap = functional.axpy(-1.0, at_y.by_x, at_z.by_x)
        along_z = functional.axpy(1.0 / weight, upper.by_y, at_z.by_y)
        moved, state = self.rule.update(y, at_y.by_y, self.rule.load(), decay_included=True)
        y_new, z_new, x, slots = functional.cut_lists(
            moved,
            self.step_of_v(z, along_z),
            functional.axpy(weight, gap, upper.by_x),
            state.flat(),
            together_with=[at_y.loss, upper.loss],
        )

        def value() -> jt.Var:
            penalty = self.lower_value(z, lower_batch) - self.lower_value(y, lower_batch)
            return self.upper_value(z, upper_batch) + weight * penalty

        return OuterStep(
            gradients=x,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(at_y.loss.item()),
            diagnostics={"f2sa_lambda": weight},
            ll_parameters=y_new,
            upper_loss_at=z,
            ll_state=state.with_slots(slots),
            auxiliary={"z": z_new},
            value=value,
        )

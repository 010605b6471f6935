"""Adam with decoupled weight decay."""

from __future__ import annotations

from jboat.optim.adam import AdamRule
from jboat.optim.numbers import root
from jboat.optim.rule import Hyperparameters, Rule, Slots, rule_of_jittors
from jboat.optim.square_root import square_root
import jittor as jt


@rule_of_jittors("AdamW")
class AdamWRule(Rule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    hyperparameters = AdamRule.hyperparameters
    slots = AdamRule.slots

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b0, b1 = h["betas"]
        mean = b0 * slots[0] + (1 - b0) * g
        square = b1 * slots[1] + (1 - b1) * g * g
        denominator = square_root(square) / root(1 - b1**step) + h["eps"]
        shrunk = p * (1 - h["lr"] * h["weight_decay"])
        return shrunk - (h["lr"] / (1 - b0**step)) * mean / denominator, (mean, square)

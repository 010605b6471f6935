"""Adam."""

from __future__ import annotations

from jboat.optim.numbers import is_zero, root
from jboat.optim.rule import Hyperparameters, Rule, Slots, rule_of_jittors
from jboat.optim.square_root import square_root
import jittor as jt


@rule_of_jittors("Adam")
class AdamRule(Rule):
    """Adam with coupled weight decay (Kingma and Ba 2015)."""

    hyperparameters = ("lr", "eps", "betas", "weight_decay")
    slots = ("m", "values")
    couples_weight_decay = True

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b0, b1 = h["betas"]
        if not is_zero(h["weight_decay"]):
            g = p * h["weight_decay"] + g
        mean = b0 * slots[0] + (1 - b0) * g
        square = b1 * slots[1] + (1 - b1) * g * g
        step_size = h["lr"] * root(1 - b1**step) / (1 - b0**step)
        return p - mean * step_size / (square_root(square) + h["eps"]), (mean, square)

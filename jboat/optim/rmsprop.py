"""RMSprop."""

from __future__ import annotations

from jboat.optim.rule import Hyperparameters, Rule, Slots, rule_of_jittors
from jboat.optim.square_root import square_root
import jittor as jt


@rule_of_jittors("RMSprop")
class RMSpropRule(Rule):
    """Gradients divided by a running root mean square (Tieleman and Hinton 2012)."""

    hyperparameters = ("lr", "eps", "alpha")
    slots = ("values",)

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        square = h["alpha"] * slots[0] + (1 - h["alpha"]) * g * g
        return p - h["lr"] * g / (square_root(square) + h["eps"]), (square,)

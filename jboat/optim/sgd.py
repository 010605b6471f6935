"""Gradient descent."""

from __future__ import annotations

from jboat import functional
from jboat.optim.numbers import is_zero
from jboat.optim.rule import Hyperparameters, Rule, Slots, rule_of_jittors
import jittor as jt


@rule_of_jittors("SGD")
class SGDRule(Rule):
    """Gradient descent with momentum, dampening, Nesterov's variant and weight decay."""

    hyperparameters = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
    slots = ("values",)
    couples_weight_decay = True

    def used_slots(self, h: Hyperparameters) -> tuple[str, ...]:
        """No slot without momentum: the velocity is then the gradient itself."""
        return self.slots if h["momentum"] else ()

    def settled(self, p: jt.Var, g: jt.Var, slots: Slots, h: Hyperparameters) -> Slots:
        """See :meth:`Rule.settled`: the velocity is ``(1 - dampening) / (1 - momentum)`` times the gradient."""
        if not slots:
            return slots
        if not is_zero(h["weight_decay"]):
            (g,) = functional.axpy(h["weight_decay"], [p], [g])
        factor = (1 - h["dampening"]) / (1 - h["momentum"])
        return tuple(functional.axpy(factor, functional.axpy(-1.0, functional.detached([g]), [g]), slots))

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        if not is_zero(h["weight_decay"]):
            (g,) = functional.axpy(h["weight_decay"], [p], [g])
        velocity = g if h["dampening"] == 0 else g * (1 - h["dampening"])
        if slots:
            (velocity,) = functional.axpy(h["momentum"], slots[:1], [velocity])
        direction = functional.axpy(h["momentum"], [velocity], [g]) if h["nesterov"] else [velocity]
        (moved,) = functional.axpy(h["lr"], direction, [p], factor=-1.0)
        return moved, (velocity,) if slots else ()

"""Adan."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import functional
from jboat.optim.numbers import root
from jboat.optim.rule import Hyperparameters, Rule, Slots, rule_of_jittors
from jboat.optim.square_root import square_root
import jittor as jt


@rule_of_jittors("Adan")
class AdanRule(Rule):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677)."""

    hyperparameters = ("lr", "betas", "eps", "weight_decay", "max_grad_norm")
    slots = ("m", "v", "d", "pre_grad")

    def transform_gradients(self, gradients: list[jt.Var], groups: Sequence[Hyperparameters]) -> list[jt.Var]:
        """Clip by the global norm where a group asks for it; later groups see what earlier ones clipped."""
        result = list(gradients)
        for h in {id(h): h for h in groups}.values():
            if h["max_grad_norm"] > 0:
                norm = square_root(functional.dot(gradients, gradients))
                factor = jt.minimum(h["max_grad_norm"] / (norm + 1e-6), jt.ones_like(norm))
                gradients = [g * factor for g in gradients]
            result = [g if group is h else r for g, r, group in zip(gradients, result, groups, strict=True)]
        return result

    def update(self, p: jt.Var, g: jt.Var, slots: Slots, step: int, h: Hyperparameters) -> tuple[jt.Var, Slots]:
        """See :meth:`Rule.update`."""
        b1, b2, b3 = h["betas"]
        mean, square, drift, previous = slots
        difference = g - previous
        mean = b1 * mean + (1 - b1) * g
        drift = b2 * drift + (1 - b2) * difference
        corrected = difference * b2 + g
        square = b3 * square + (1 - b3) * corrected * corrected
        scale = root(1 - b3**step)
        direction = (h["lr"] * scale / (1 - b1**step)) * mean + (h["lr"] * b2 * scale / (1 - b2**step)) * drift
        moved = p - direction / (square_root(square) + h["eps"] * scale)
        return moved / (1 + h["lr"] * h["weight_decay"]), (mean, square, drift, g)

"""Say once that a hypergradient is exactly zero, and why that may be."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jboat import registry
from jboat.trainers.outer_step.result import HyperGradientResult

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")


class ZeroWatch:
    """Warns at the first hypergradient that is exactly zero, and never again.

    Attributes:
        settled: whether there has been one that is not zero, or a warning.
    """

    def __init__(self) -> None:
        self._warned = False
        self.settled = False

    def look_at(self, trainer: BilevelTrainer, result: HyperGradientResult, norm: float) -> None:
        """Warn if every entry is zero.

        Args:
            trainer: whose hypergradient it is.
            result: the hypergradient.
            norm: its norm, which is zero, too, where small entries vanish when squared.
        """
        if norm != 0.0 or self._warned:
            self.settled = True
            return
        if trainer.problem.plan.multiplier_mover is not None and "multiplier" not in trainer.auxiliary:
            return  # the multiplier starts at zero, and grad_x F alone is left
        if any(g.numpy().any() for g in result.gradients):
            return
        self._warned = self.settled = True
        names = [trainer.fo_op] if trainer.fo_op else [*trainer.gm_op, *trainer.na_op]
        causes = [cause for name in names if (cause := registry.zero_because(name))]
        causes += [
            "the objectives use no variable of ul_model, or a copy (detach, deepcopy, a Var made from its numbers)",
            "detach, stop_grad, no_grad, item or numpy on the way from ul_var to the objectives",
            "a lower learning rate of 0",
        ]
        logger.warning(
            "the hypergradient of outer step %d is exactly zero, so that x does not move. Likely causes: %s.",
            trainer.state.step + 1,
            "; ".join(causes),
        )

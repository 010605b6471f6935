"""Say once that a hypergradient is exactly zero, and why that may be."""

from __future__ import annotations

from collections.abc import Mapping
import logging

from jboat import registry
from jboat.outer_step import OuterStep
from jboat.trainers.outer_step.method import OuterMethod
import jittor as jt

logger = logging.getLogger("jboat")


class ZeroWatch:
    """Warns at the first hypergradient that is exactly zero, and never again.

    Attributes:
        settled: whether there has been one that is not zero, or a warning.
    """

    def __init__(self) -> None:
        self._warned = False
        self.settled = False

    def look_at(
        self, found: OuterStep, method: OuterMethod, *, step: int, auxiliary: Mapping[str, list[jt.Var]]
    ) -> None:
        """Warn if every entry is zero.

        Args:
            found: what the outer step yields.
            method: how it was done.
            step: the outer step, counted from 1.
            auxiliary: what the method kept from the step before.
        """
        if found.norm != 0.0 or self._warned:
            self.settled = True
            return
        if method.unfinished(auxiliary):
            return
        if any(g.numpy().any() for g in found.gradients):  # small entries vanish when squared
            return
        self._warned = self.settled = True
        causes = [cause for name in method.problem.operators if (cause := registry.zero_because(name))]
        causes += [
            "the objectives use no variable of ul_model, or a copy (detach, deepcopy, a Var made from its numbers)",
            "detach, stop_grad, no_grad, item or numpy on the way from ul_var to the objectives",
            "a lower learning rate of 0",
        ]
        logger.warning(
            "the hypergradient of outer step %d is exactly zero, so that x does not move. Likely causes: %s.",
            step,
            "; ".join(causes),
        )

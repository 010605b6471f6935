"""SRBA: SARAH estimates that start again from the full directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jboat.registry import register_operator
from jboat.sl_ol.batches import Counts, StepBatches
from jboat.sl_ol.estimators import SARAH, Storm
from jboat.sl_ol.recursive import Recursive
from jboat.sl_ol.single_loop import Kept, SingleLoopOptions


@dataclass(frozen=True)
class SRBAOptions(SingleLoopOptions):
    """Options of SRBA.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
        period: steps from one full direction to the next, at least 1; 0 for half the number of batches of both loaders
            together.
    """

    period: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("period", 0)


@register_operator(
    "sl",
    options=SRBAOptions,
    cost="twice that of SOBA, and once a period that of SOBA on all batches, which are then held at once",
)
class SRBA(Recursive):
    """SOBA with SARAH estimates ``d = d + g(z; xi) - g(z'; xi)`` of all three directions.

    g is the direction on the batches xi of the step, z = (x, y, v) its point and z' that of the step before. Once a
    period d is the full direction instead, on average over all batches of both loaders, which that step draws: an epoch
    ends with it. Their variance vanishes as the iterates come to rest, so that step sizes need not decrease. Both
    loaders must give the same batches in every pass, as a list does or a Dataset that does not shuffle.

    Source: Dagreou, Moreau, Vaiter and Ablin, "A lower bound and a near-optimal algorithm for bilevel empirical risk
    minimization", AISTATS 2024.
    """

    needs_fixed_batches = True

    def batches(self, current_iter: int, of: Counts | None, kept: Kept) -> Counts:
        """All of both levels where the estimates start again; see :meth:`SingleLoop.batches`."""
        return of if of is not None and self._starts_again(current_iter, of, kept) else Counts(1, 1)

    def estimators(self, batches: StepBatches, current_iter: int, kept: Kept) -> Mapping[str, Storm]:
        """See :meth:`Recursive.estimators`."""
        of = None if batches.places is None else batches.places.of
        if of is not None and self._starts_again(current_iter, of, kept):
            return {}
        return dict.fromkeys(self.recursive, SARAH)

    def _starts_again(self, current_iter: int, of: Counts, kept: Kept) -> bool:
        period = self.options.period or max(1, (of.lower + of.upper) // 2)
        return not kept or current_iter % period == 0

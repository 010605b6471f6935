"""SABA: SAGA estimates of all three directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jboat.fo_ol.first_order import Auxiliary
from jboat.outer_step import OuterStep
from jboat.registry import register_operator
from jboat.sl_ol.batches import StepBatches
from jboat.sl_ol.directions import Directions, LowerTerms, Point, UpperTerms, directions, lists_of
from jboat.sl_ol.estimators import Saga
from jboat.sl_ol.single_loop import Keeps, Kept, SingleLoop, SingleLoopOptions
import jittor as jt


@dataclass(frozen=True)
class SABAOptions(SingleLoopOptions):
    """Options of SABA.

    Attributes:
        v_lr: step size of v, at least 0; 0 for the lower learning rate of each variable.
    """


@register_operator(
    "sl",
    options=SABAOptions,
    cost="that of SOBA; memory of two y and one x for every lower batch and one of each for every upper batch",
)
class SABA(SingleLoop):
    """SOBA with SAGA estimates ``d = g - m_i + mean(m)`` of every term of the three directions.

    m_i is what the term was when batch i was last seen, by the place of the batch in a pass, of the lower loader for
    ``grad_y f``, ``(d2 f / dy2) v`` and ``(d2 f / dx dy) v``, of the upper one for both gradients of F. The memory
    starts at zero. Its variance vanishes as the iterates come to rest, so that step sizes need not decrease. Both
    loaders must give the same batches in every pass, as a list does or a Dataset that does not shuffle; they are taken
    in that order, where the paper draws them at random.

    Source: Dagreou, Ablin, Vaiter and Moreau, "A framework for bilevel optimization that enables stochastic and global
    variance reduction algorithms", NeurIPS 2022.
    """

    keeps: ClassVar[Keeps] = {"v": "y"}
    needs_fixed_batches = True

    def kept_like(self, name: str) -> list[jt.Var] | None:
        """See :meth:`SingleLoop.kept_like`; besides v, what is remembered of each batch and the sums."""
        level, _, place = name.partition(".")
        y, x = self.ll_var, self.ul_var
        shapes = {"lower": [*y, *y, *x], "upper": [*y, *x]}
        if level in shapes and (place == "sum" or (place.isascii() and place.isdecimal())):
            return shapes[level]
        return super().kept_like(name)

    def optimize(self, batches: StepBatches, current_iter: int, kept: Kept) -> OuterStep:
        """See :meth:`SingleLoop.optimize`; what is remembered of a loader with more batches is forgotten for good."""
        if batches.places is not None:
            for level, count in zip(("lower", "upper"), batches.places.of, strict=True):
                if f"{level}.{count}" in kept:
                    kept = {name: value for name, value in kept.items() if not name.startswith(f"{level}.")}
        return super().optimize(batches, current_iter, kept)

    def estimates(
        self,
        lower: LowerTerms,
        upper: UpperTerms,
        point: Point,
        batches: StepBatches,
        current_iter: int,
        kept: Kept,
    ) -> tuple[Directions, Auxiliary]:
        """See :meth:`SingleLoop.estimates`; batches that come from no loader have the terms that they have."""
        if batches.places is None:
            return directions(lower, upper), {}
        at, of = batches.places
        lower_lists, of_lower = _estimated(Saga("lower", of.lower), lists_of(lower), at.lower, kept)
        upper_lists, of_upper = _estimated(Saga("upper", of.upper), lists_of(upper), at.upper, kept)
        return directions(LowerTerms(*lower_lists), UpperTerms(*upper_lists)), {**of_lower, **of_upper}


def _estimated(saga: Saga, lists: list[list[jt.Var]], index: int, kept: Kept) -> tuple[list[list[jt.Var]], Auxiliary]:
    """The estimates of several lists of terms, and what changes in the memory."""
    estimate, changed = saga([v for part in lists for v in part], index, kept)
    remaining = iter(estimate)
    return [[next(remaining) for _ in part] for part in lists], changed

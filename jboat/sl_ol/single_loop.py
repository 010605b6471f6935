"""The base class of the single-loop methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from numbers import Integral
from typing import ClassVar, Literal, TypeAlias

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Auxiliary, Chainless
from jboat.outer_step import OuterStep
from jboat.sl_ol.batches import Counts, StepBatches
from jboat.sl_ol.directions import (
    Directions,
    Losses,
    LowerTerms,
    Point,
    UpperTerms,
    directions,
    directions_at,
    mean_terms,
    terms_at,
)
import jittor as jt

Keeps: TypeAlias = Mapping[str, Literal["x", "y"]]
Kept: TypeAlias = "Mapping[str, list[jt.Var]]"


@dataclass(frozen=True)
class SingleLoopOptions:
    """Options of single-loop methods.

    Attributes:
        v_lr: step size of v; 0 for the lower learning rate of each variable.
    """

    v_lr: float = 0.0

    def __post_init__(self) -> None:
        self.require("v_lr", 0.0 <= self.v_lr < math.inf, "at least 0 and finite")

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Refuse a value out of range.

        Raises:
            ValueError: if ``holds`` is false.
        """
        if not holds:
            section = type(self).__name__.removesuffix("Options")
            raise ValueError(f"solver_config[{section!r}][{name!r}] must be {allowed}, got {getattr(self, name)!r}")

    def require_integer(self, name: str, least: int) -> None:
        """Refuse what is no integer of at least ``least``.

        Raises:
            ValueError: if it is none.
        """
        value = getattr(self, name)
        is_integer = isinstance(value, Integral) and not isinstance(value, bool)
        self.require(name, is_integer and value >= least, f"an integer >= {least}")


class SingleLoop(Chainless):
    """A method that moves y, v and x one step each in every outer step, v being on its way to ``H^-1 grad_y F``.

    y is moved by the user's lower optimizer along an estimate of ``grad_y f``, v by a plain step of size ``v_lr`` along
    one of ``(d2 f / dy2) v - grad_y F``, and x by the user's upper optimizer along one of ``grad_x F - (d2 f / dx dy)
    v``, all from the values before the step. A method defines :meth:`estimates`, or :meth:`optimize` as a whole.

    Attributes:
        keeps: what it remembers from step to step, by name, each a list with one Var per variable of the lower level
            (``"y"``) or of the upper one (``"x"``); None where a method does not tell.
        needs_fixed_batches: whether both loaders must give the same batches, in the same order, in every pass.
    """

    keeps: ClassVar[Keeps | None] = None
    needs_fixed_batches: ClassVar[bool] = False

    def needs_second_derivatives(self) -> bool:
        """See :class:`Chainless`; nearly all do."""
        return True

    def kept_like(self, name: str) -> list[jt.Var] | None:
        """Variables of the shapes of what is kept under a name; None where nothing is."""
        level = (self.keeps or {}).get(name)
        return None if level is None else self.ul_var if level == "x" else self.ll_var

    def batches(self, current_iter: int, of: Counts | None, kept: Kept) -> Counts:
        """How many batches of each level a step takes.

        Args:
            current_iter: the number of the outer step, from 0.
            of: how many batches a pass over each loader has; None where that is not known.
            kept: what was remembered of the step before; empty at the first one.
        """
        return Counts(1, 1)

    def optimize(self, batches: StepBatches, current_iter: int, kept: Kept) -> OuterStep:
        """One step from the variables' present values; nothing is moved.

        Args:
            batches: as many as :meth:`batches` asks for, or one of each level.
            current_iter: the number of the outer step, from 0.
            kept: what was remembered of the step before; empty at the first one.
        """
        point = self.point(kept)
        lower, upper, losses = self.terms(point, batches)
        along, keep = self.estimates(lower, upper, point, batches, current_iter, kept)
        return self.moved(point, along, losses, batches, kept, keep, share=self.share_of_present(kept))

    def estimates(
        self,
        lower: LowerTerms,
        upper: UpperTerms,
        point: Point,
        batches: StepBatches,
        current_iter: int,
        kept: Kept,
    ) -> tuple[Directions, Auxiliary]:
        """Estimates of the full directions, and what is to be remembered besides v; neither need be computed.

        Args:
            lower: the lower objective's terms on the step's batches.
            upper: the upper objective's.
            point: where they were taken.
            batches: those of the step.
            current_iter: the number of the outer step, from 0.
            kept: what was remembered of the step before; empty at the first one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define estimates()")

    def share_of_present(self, kept: Kept) -> float:
        """How much of the direction of x is that of the step's own batches at the present point."""
        return 1.0

    def point(self, kept: Kept) -> Point:
        """Where the step starts; v from zero."""
        v = kept.get("v")
        y = self.start()
        return Point(self.ul_var, y, functional.detached(v) if v else functional.cut([jt.zeros_like(p) for p in y]))

    def terms(self, point: Point, batches: StepBatches) -> tuple[LowerTerms, UpperTerms, Losses]:
        """The terms of all directions at a point, on average over the step's batches."""
        if len(batches.lower) == len(batches.upper) == 1:
            return terms_at(self, point, batches.lower[0], batches.upper[0])
        return mean_terms(self, point, batches.lower, batches.upper)

    def directions(self, point: Point, batches: StepBatches) -> Directions:
        """The directions at a point, on average over the step's batches."""
        if len(batches.lower) == len(batches.upper) == 1:
            return directions_at(self, point, batches.lower[0], batches.upper[0])
        lower, upper, _ = self.terms(point, batches)
        return directions(lower, upper)

    def v_rates(self) -> list[float]:
        """The step size of each variable's v."""
        rate = float(getattr(self.options, "v_lr", 0.0))
        return [rate or own for own in self.rule.learning_rates()]

    def step_of_v(self, v: Sequence[jt.Var], along: Sequence[jt.Var]) -> list[jt.Var]:
        """V after a plain step."""
        return [functional.axpy(-rate, [d], [own])[0] for rate, d, own in zip(self.v_rates(), along, v, strict=True)]

    def moved(
        self,
        point: Point,
        along: Directions,
        losses: Losses,
        batches: StepBatches,
        kept: Kept,
        keep: Auxiliary,
        *,
        share: float = 1.0,
    ) -> OuterStep:
        """The step along these directions, all of it computed in one run.

        Args:
            point: where it starts.
            along: the estimates of the directions.
            losses: f and F there.
            batches: those of the step.
            kept: what was remembered of the step before, which stays where nothing comes in its place.
            keep: what to remember now besides v.
            share: see :meth:`share_of_present`.
        """
        y, state = self.rule.update(point.y, along.y, self.rule.load(), decay_included=True)
        names, here = list(keep), point._replace(x=functional.detached(point.x))  # x is about to move
        y, v, x, slots, *remembered = functional.cut_lists(
            y, self.step_of_v(point.v, along.v), along.x, state.flat(), *keep.values(), together_with=[*losses]
        )
        return OuterStep(
            gradients=x,
            upper_loss=float(losses.upper.item()),
            lower_loss=float(losses.lower.item()),
            ll_parameters=y,
            upper_loss_at=self.ll_var,
            ll_state=state.with_slots(slots),
            auxiliary={**kept, "v": v, **dict(zip(names, remembered, strict=True))},
            value=lambda: self.value(here, x, batches, share),
        )

    def value(self, point: Point, direction: Sequence[jt.Var], batches: StepBatches, share: float) -> jt.Var:
        """What has ``direction`` as its derivative by x, at the x that ``ul_var`` holds, y and v held.

        That is ``share (F - <grad_y f, v>)`` on the step's batches, plus a linear term for what is left of the
        direction, which comes from other batches and points.
        """
        exact = self.directions(point, batches).x
        rest = functional.cut(functional.axpy(-share, exact, direction))
        return share * self.lagrangian(point, batches) + functional.dot(rest, self.ul_var)

    def lagrangian(self, point: Point, batches: StepBatches) -> jt.Var:
        """``F - <grad_y f, v>`` with its graph, on average over the step's batches."""
        upper = sum(self.upper_value(point.y, batch) for batch in batches.upper) / len(batches.upper)
        gradients = [autodiff.grad(self.lower_value(point.y, batch), point.y) for batch in batches.lower]
        return upper - sum(functional.dot(g, point.v) for g in gradients) / len(gradients)

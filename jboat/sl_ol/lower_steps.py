"""What the methods share that take K lower steps on fresh batches before they look at F."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from jboat import autodiff, functional
from jboat.levels import Batch
from jboat.optim import OptimizerState
from jboat.outer_step import OuterStep
from jboat.sl_ol.batches import Counts, StepBatches
from jboat.sl_ol.directions import Losses, Point, lower_gradient, upper_terms
from jboat.sl_ol.single_loop import Kept, SingleLoop
import jittor as jt


class LowerSteps(SingleLoop):
    """A method of ``lower_iters`` lower steps, then a solver for v at y_K, each of their parts on a batch of its own.

    y is moved by the user's lower optimizer, whose state carries over, and x along ``grad_x F - (d2 f / dx dy) v`` at
    y_K, the mixed product on one more lower batch.
    """

    takes_fresh_batches: ClassVar[bool] = True

    def solver_steps(self) -> int:
        """How many lower batches the solver takes."""
        raise NotImplementedError(f"{type(self).__name__} must define solver_steps()")

    def solution(self, point: Point, by_y: Sequence[jt.Var], batches: Sequence[Batch]) -> list[jt.Var]:
        """V, computed.

        Args:
            point: y_K, with the v of the step before.
            by_y: ``grad_y F`` there.
            batches: one a step of the solver.
        """
        raise NotImplementedError(f"{type(self).__name__} must define solution()")

    def batches(self, current_iter: int, of: Counts | None, kept: Kept) -> Counts:
        """One lower batch for each lower step, each step of the solver and the mixed product; one upper batch."""
        return Counts(self.lower_loop + self.solver_steps() + 1, 1)

    def optimize(self, batches: StepBatches, current_iter: int, kept: Kept) -> OuterStep:
        """See :meth:`SingleLoop.optimize`; with fewer batches than a step takes they are taken again and again."""
        wanted = self.batches(current_iter, None, kept).lower
        feeds = [batches.lower[i % len(batches.lower)] for i in range(wanted)]
        start = self.point(kept)
        y, state, lower_loss = self._lower_steps(start, feeds[: self.lower_loop])
        point = start._replace(y=y)
        upper, upper_loss = upper_terms(self, point, batches.upper[0])
        jt.sync([upper_loss, *upper.by_y, *upper.by_x])
        point = point._replace(v=self.solution(point, upper.by_y, feeds[self.lower_loop : -1]))
        gradient, _ = lower_gradient(self, point, feeds[-1])
        mixed_v = functional.detached(autodiff.vjp(gradient, point.x, point.v))
        x = functional.cut(functional.axpy(-1.0, mixed_v, upper.by_x))
        last, remembered = StepBatches(feeds[-1:], batches.upper[:1]), {"v": point.v}
        losses = Losses(lower_loss, upper_loss)
        return OuterStep(
            gradients=x,
            upper_loss=float(losses.upper.item()),
            lower_loss=float(losses.lower.item()),
            ll_parameters=y,
            ll_state=state,
            auxiliary={name: remembered[name] for name in self.keeps or ()},
            value=lambda: self.lagrangian(point, last),
        )

    def product(self, point: Point, vector: Sequence[jt.Var], batch: Batch) -> list[jt.Var]:
        """The Hessian of the lower objective on a batch times a vector, not computed yet."""
        gradient, _ = lower_gradient(self, point, batch)
        jt.sync(gradient)
        return functional.detached(autodiff.vjp(gradient, point.y, vector))

    def _lower_steps(self, start: Point, batches: Sequence[Batch]) -> tuple[list[jt.Var], OptimizerState, jt.Var]:
        """y_K, the lower optimizer's state, and f before the last step."""
        y, state, loss = start.y, self.rule.load(), jt.zeros(1)
        for batch in batches:
            gradient, loss = lower_gradient(self, start._replace(y=y), batch)
            moved, after = self.rule.update(y, functional.detached(gradient), state, decay_included=True)
            y, slots = functional.cut_lists(moved, after.flat(), together_with=[loss])
            state = after.with_slots(slots)
        return y, state, loss

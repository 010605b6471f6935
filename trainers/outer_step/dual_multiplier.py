"""An outer step by the dual multiplier method: y, the multiplier and x move together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools

from jboat.gm_ol.sequential_ds import SequentialDS
from jboat.outer_step import OuterStep
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.chains import lower_chain
from jboat.trainers.outer_step.finiteness import lower_failure
from jboat.trainers.outer_step.method import Events, OuterMethod, Start
from jboat.trajectory import Trajectory
import jittor as jt


class DualMultiplier(OuterMethod):
    """One step of a lower-level chain that ends in DM or a user's operator in its place."""

    @property
    def name(self) -> str:
        """See :class:`OuterMethod`."""
        mover = self.problem.plan.multiplier_mover
        assert mover is not None
        return mover.name

    @property
    def keeps(self) -> Sequence[str]:
        """The multiplier."""
        return ("multiplier",)

    @property
    def needs_second_derivatives(self) -> bool:
        """See :class:`OuterMethod`."""
        return self.problem.plan.needs_second_derivatives

    def unfinished(self, auxiliary: Mapping[str, list[jt.Var]]) -> bool:
        """At the first step: the multiplier starts at zero, and grad_x F alone is left."""
        return "multiplier" not in auxiliary

    def step(self, pair: Pair, start: Start, events: Events) -> OuterStep:
        """See :class:`OuterMethod`."""
        problem = self.problem
        events.call("on_hypergradient_start")
        with events.timed("hypergradient"):
            trajectory = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer)
            moved = self._chain.optimize(
                ll_feed_dict=pair[0],
                ul_feed_dict=pair[1],
                auxiliary_model=trajectory,
                current_iter=start.step - 1,
                multiplier=start.auxiliary.get("multiplier"),
                ul_var=problem.ul_var,
                ll_state=start.ll_state(),
            )[-1]
            problem.advance_upper_statistics(trajectory)
        found = OuterStep(
            gradients=moved["hyper_gradient"],
            upper_loss=moved["upper_loss"],
            lower_loss=moved["lower_loss"],
            diagnostics=moved["diagnostics"],
            ll_parameters=moved["ll_parameters"],
            upper_loss_at=problem.ll_var,
            ll_state=moved["ll_state"],
            auxiliary={"multiplier": moved["multiplier"]},
            ul_learning_rate=moved["ul_learning_rate"],
            value=moved.get("value"),
            failure=lower_failure(self.name, start.step, 1, moved["lower_loss"], moved["ll_parameters"]),
        )
        events.call("on_hypergradient_end", found)
        return found

    @functools.cached_property
    def _chain(self) -> SequentialDS:
        return lower_chain(self.problem, self.problem.config)

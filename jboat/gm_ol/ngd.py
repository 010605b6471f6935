"""NGD: gradient descent on the lower objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from jboat import functional, levels, number_of_checkpoints, registry, running_statistics
from jboat.backend import ranks
from jboat.backend.flag_blocks import flag
from jboat.capabilities import LowerCapabilities
from jboat.gm_ol.dynamical_system import LowerLevelOperator
from jboat.levels import Batch, Objective
from jboat.lower_objective import LowerObjective
from jboat.numbers_drawn_anew import DrawnAnew
from jboat.out_of_place import require
from jboat.registry import register_operator
from jboat.trajectory import OfEachStep, Trajectory
from jboat.trial_calls import on_trial
import jittor as jt

StepHook = Callable[[int, Trajectory], None]


@register_operator("gm", cost="K lower gradients; memory of the graphs of the steps that are differentiated")
class NGD(LowerLevelOperator):
    """``lower_loop`` steps of the lower-level optimizer.

    Source: Franceschi, Donini, Frasconi and Pontil, "Forward and reverse gradient-based hyperparameter optimization",
    ICML 2017.
    """

    capabilities = LowerCapabilities(stacks_tasks=True)

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ll_model: jt.Module,
        ul_model: jt.Module,
        lower_loop: int,
        solver_config: Mapping[str, Any],
    ) -> None:
        super().__init__(ll_objective, ul_objective, ll_model, ul_model, lower_loop, solver_config)
        self._drawn_anew = DrawnAnew()
        self._from_memory: dict[tuple[Any, ...], int] = {}

    def optimize(
        self,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        auxiliary_model: Trajectory,
        next_operation: str | None = None,
        lower_objective: LowerObjective | None = None,
        keep_graph: bool = False,
        on_step: StepHook | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Extend the trajectory by ``lower_loop`` steps.

        Args:
            ll_feed_dict: the lower batch, or one per inner step.
            ul_feed_dict: the upper batch, for GDA and PTT.
            auxiliary_model: the trajectory, at y_0.
            next_operation: must be None, or an operator like DM, to which NGD then leaves the step.
            lower_objective: phi; by default the plain lower objective.
            keep_graph: keep graphs even where the hypergradient chain does not need them.
            on_step: called with the inner step (from 1) and the trajectory after each step, which need not have been
                computed yet.
            kwargs: handed through.

        Returns:
            The feed dicts, ``auxiliary_model`` at y_K, ``max_loss_iter`` (PTT's inner step, 0 without PTT) and
            ``lower_loss``, phi before the last step as a Var.

        Raises:
            AssertionError: if another operator should follow.
        """
        if next_operation is not None and not registry.plan([next_operation], []).has_lower_loop:
            feeds = {"ll_feed_dict": ll_feed_dict, "ul_feed_dict": ul_feed_dict, "auxiliary_model": auxiliary_model}
            return {**kwargs, **feeds, **({"lower_objective": lower_objective} if lower_objective else {})}
        require(next_operation is None, f"NGD ends the lower-level chain, but {next_operation} follows it")
        phi = lower_objective or self.lower_objective(aggregated=False)
        auxiliary_model.lower_objective = phi
        tracked_from = self._options.tracked_from
        choice = self.plan.iterate_choice(lambda trajectory: self._upper_loss(trajectory, ul_feed_dict))
        lower_loss = None
        y, anchor, noted = auxiliary_model.variables, auxiliary_model.parameters(0), auxiliary_model.upper_statistics

        def objective(step: int, model: jt.Module) -> jt.Var:
            with functional.preserved(self.upper_statistics):
                loss = phi(model, y, step, ll_feed_dict, ul_feed_dict, anchor)
                if step == 0 and self.upper_statistics:
                    noted.setdefault("lower", running_statistics.noted(self.upper_statistics))
                return loss

        steps = OfEachStep(objective)
        of_lower = [ll_feed_dict] if isinstance(ll_feed_dict, dict) else ll_feed_dict
        shared = any(isinstance(batch, ranks.Shard) for batch in (*of_lower, ul_feed_dict))
        kept = self._number_of_checkpoints(auxiliary_model, steps, shared=shared)
        if kept:
            begin = 0 if self.plan.start_learner is not None else tracked_from
            auxiliary_model.keep_few(kept, steps=self.lower_loop, begin=begin)
        keep = not (kept or self._options.rebuilt_at_once) and (keep_graph or self.plan.differentiates_steps)
        first_again = tracked_from > 0 and self.plan.start_learner is not None
        taken_again = self.plan.pulls_back and (first_again or not keep)
        for step in range(self.lower_loop):
            last = step == self.lower_loop - 1
            tracked = step >= tracked_from
            with self._drawn_anew.looking() if step == 0 and taken_again else nullcontext():
                lower_loss = auxiliary_model.advance(
                    steps, keep_graph=keep and tracked, join=choice is None, with_loss=last
                )
            if choice is not None and tracked:
                choice.look_at(step + 1, auxiliary_model)
                if kept and choice.chosen() == step + 1:
                    auxiliary_model.hold(step + 1)
            if on_step:
                on_step(step + 1, auxiliary_model)
        auxiliary_model.settle()
        if self._drawn_anew.found:
            self.warn(
                "the lower objective draws random numbers of numpy's or Python's own generator. Steps are taken "
                "again (remat_every, checkpoints), with the same numbers of Jittor's generator but others of "
                "those, and the hypergradient is not that of the loop: draw by jt.rand or jt.randn, or keep graphs"
            )
        return {
            **kwargs,
            "ll_feed_dict": ll_feed_dict,
            "ul_feed_dict": ul_feed_dict,
            "auxiliary_model": auxiliary_model,
            "max_loss_iter": 0 if choice is None else choice.chosen(),
            "lower_loss": lower_loss,
        }

    def _number_of_checkpoints(self, trajectory: Trajectory, steps: OfEachStep, *, shared: bool) -> int:
        """How many iterates to keep; 0 for all. The memory is looked at once for y of each shape.

        Several tasks at once have a y of another shape. Only where ranks share each batch do they take the same lower
        steps, and ask each other.
        """
        given = self._options.checkpoints
        if given != "auto":
            return int(given)
        if not self.plan.pulls_back:  # then none is wanted twice
            return 2
        key = shared, *(tuple(v.shape) for v in trajectory.parameters(0))
        if key not in self._from_memory:
            size = trajectory.size_of_step(steps)
            self._from_memory[key] = number_of_checkpoints.chosen(size, self.lower_loop, agreed=shared, warn=self.warn)
        return self._from_memory[key]

    def _upper_loss(self, trajectory: Trajectory, ul_feed_dict: Batch) -> jt.Var:
        with flag("no_grad", 1), functional.preserved(self.upper_statistics), on_trial():
            loss = trajectory.evaluate(
                lambda model: levels.call(
                    self.ul_objective, ul_feed_dict, self.ul_model, model, parameters=trajectory.variables
                )
            )
            return loss.sync()

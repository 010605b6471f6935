"""An outer step by two chains: the lower loop, then the hypergradient."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from jboat import functional, levels
from jboat.gm_ol.sequential_ds import SequentialDS, makes_functional_dynamical_system
from jboat.na_ol.sequential_hg import SequentialHG, makes_functional_na_operation
from jboat.outer_step import OuterStep
from jboat.trainers.data.loaders import Batch
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step import device_memory
from jboat.trainers.outer_step.finiteness import lower_loop_failure
from jboat.trainers.outer_step.method import Events, OuterMethod, Start
from jboat.trainers.outer_step.problem import Problem
from jboat.trajectory import Trajectory
import jittor as jt


class Chains(OuterMethod):
    """K lower steps from y_0, and the hypergradient of F at the end of them."""

    has_lower_loop = True

    @property
    def name(self) -> str:
        """See :class:`OuterMethod`."""
        return self.problem.na_op[-1]

    @property
    def keeps(self) -> Sequence[str]:
        """What operators say; y_0 and the lower optimizer's state are the trainer's."""
        return self.problem.options.keeps

    @property
    def needs_second_derivatives(self) -> bool:
        """See :class:`OuterMethod`."""
        return self.problem.plan.needs_second_derivatives

    def step(self, pair: Pair, start: Start, events: Events) -> OuterStep:
        """See :class:`OuterMethod`."""
        problem = self.problem
        last_lower = problem.gm_op[-1]
        learned = {} if problem.learned is None else problem.learned.numbers(start.step)
        events.call("on_lower_loop_start")
        with events.timed("lower"):
            with device_memory.named(last_lower, start.step):
                lower = self._lower_loop(self._lower_chain, pair, start, events)
            trajectory: Trajectory = lower["auxiliary_model"]
            lower_loss = float(lower["lower_loss"].item())
            failure = lower_loop_failure(last_lower, start.step, lower_loss, trajectory)
        events.call("on_lower_loop_end")

        events.call("on_hypergradient_start")
        with events.timed("hypergradient"):
            upper = self._upper_chain.compute_gradients(
                ll_feed_dict=pair[0],
                ul_feed_dict=pair[1],
                auxiliary_model=trajectory,
                max_loss_iter=lower["max_loss_iter"],
                current_iter=start.step - 1,
                kept=start.auxiliary,
            )[-1]
            problem.advance_upper_statistics(trajectory)
        diagnostics = dict(upper.get("diagnostics", {}))
        chooses = problem.plan.chooser is not None
        if chooses:
            diagnostics["ptt_index"] = float(lower["max_loss_iter"])
        diagnostics |= {f"ll_{name}": sum(n) / len(n) for name, n in learned.items() if name != "betas"}
        if problem.plan.aggregator is not None:
            diagnostics["gda_alpha"] = problem.options.weight(0)
        found = OuterStep(
            gradients=upper["hyper_gradient"],
            upper_loss=upper["upper_loss"],
            lower_loss=lower_loss,
            ll_init_gradient=upper.get("ll_init_gradient"),
            diagnostics=diagnostics,
            ll_losses=trajectory.losses() if events.lower_losses else [],
            ll_parameters=trajectory.parameters(len(trajectory)),
            upper_loss_at=trajectory.parameters(lower["max_loss_iter"]) if chooses else [],
            ll_state=trajectory.optimizer_state,
            auxiliary=upper.get("kept", {}),
            failure=failure,
        )
        events.call("on_hypergradient_end", found)
        return found

    def unrolled_value(self, pairs: Sequence[Pair], starts: Sequence[Start], x: Sequence[jt.Var]) -> float:
        """See :class:`OuterMethod`."""
        values = [self._unrolled_value(pair, start, x) for pair, start in zip(pairs, starts, strict=True)]
        return sum(values) / len(values)

    def _unrolled_value(self, pair: Pair, start: Start, x: Sequence[jt.Var]) -> float:
        problem, moved = self.problem, self.problem.ul_var
        if problem.plan.initializer is not None:  # x is the initialisation alone
            start, moved = dataclasses.replace(start, y=x), []
        with functional.preserved(problem.statistics()), functional.substituted(moved, x[: len(moved)]):
            chain = self._lower_chain_without_graphs
            trajectory: Trajectory = self._lower_loop(chain, pair, start, Events())["auxiliary_model"]
            loss = trajectory.evaluate(
                lambda model: levels.call(
                    problem.ul_objective, pair[1], problem.ul_model, model, parameters=problem.ll_var
                )
            )
            return float(loss.item())

    def adapted(self, support: Batch, start: Start) -> list[jt.Var]:
        """See :class:`OuterMethod`."""
        problem = self.problem
        with functional.preserved(problem.statistics()):
            found = self._lower_loop(self._adaptation, (support, {}), start, Events())
            trajectory: Trajectory = found["auxiliary_model"]
            return trajectory.parameters(len(trajectory))

    def _lower_loop(self, chain: SequentialDS, pair: Pair, start: Start, events: Events) -> dict[str, Any]:
        """What the last operator of the lower-level chain returns."""
        problem = self.problem
        trajectory = Trajectory(
            problem.ll_model,
            problem.ll_var,
            problem.ll_optimizer,
            initial=start.y,
            state=start.ll_state(),
            remat_every=problem.options.rebuilt_at_once or 1,
            reseed=start.reseed,
            projection=problem.ll_projection,
            learned=problem.learned,
        )
        return chain.optimize(
            ll_feed_dict=pair[0], ul_feed_dict=pair[1], auxiliary_model=trajectory, on_step=events.on_lower_step
        )[-1]

    @functools.cached_property
    def _lower_chain(self) -> SequentialDS:
        return lower_chain(self.problem, self.problem.config)

    @functools.cached_property
    def _lower_chain_without_graphs(self) -> SequentialDS:
        """The same lower steps where nothing is differentiated."""
        return lower_chain(self.problem, self._config_without_graphs)

    @functools.cached_property
    def _adaptation(self) -> SequentialDS:
        """The same of the lower objective alone, for a batch that goes with no upper one."""
        problem = self.problem
        arguments = problem.operator_arguments(self._config_without_graphs)
        return makes_functional_dynamical_system(problem.gm_op[-1:], lower_loop=problem.lower_iters, **arguments)

    @functools.cached_property
    def _config_without_graphs(self) -> Mapping[str, Any]:
        problem = self.problem
        plan = problem.plan.without_graphs()
        own = {"chain_plan": plan, "chain_options": problem.options.under(plan)}
        return ChainMap(own, problem.config)

    @functools.cached_property
    def _upper_chain(self) -> SequentialHG:
        problem = self.problem
        return makes_functional_na_operation(
            problem.na_op, ll_var=problem.ll_var, ul_var=problem.ul_var, **problem.operator_arguments()
        )


def lower_chain(problem: Problem, config: Mapping[str, Any]) -> SequentialDS:
    """The operators of the lower level."""
    return makes_functional_dynamical_system(
        problem.gm_op, lower_loop=problem.lower_iters, **problem.operator_arguments(config)
    )

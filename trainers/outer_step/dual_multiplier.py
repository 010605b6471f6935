"""One step of the dual multiplier method."""

from __future__ import annotations

import time

from jboat.optim import OptimizerState
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.chains import Events, Problem, lower_failure
from jboat.trainers.outer_step.result import HyperGradientResult
from jboat.trajectory import Trajectory
import jittor as jt


def dual_multiplier_pass(
    problem: Problem,
    pair: Pair,
    *,
    step: int,
    ll_state: OptimizerState | None,
    multiplier: list[jt.Var] | None,
    events: Events,
) -> HyperGradientResult:
    """Run the chain that ends in DM; nothing of the user's is changed but running statistics.

    Args:
        problem: the two levels.
        pair: the lower and the upper batch.
        step: the outer step under way, counted from 1.
        ll_state: the lower optimizer's state; None for a fresh one.
        multiplier: v after the step before; None at the first one.
        events: called before and after; there are no lower steps to tell of.
    """
    events.call("on_hypergradient_start")
    begun = time.perf_counter()
    trajectory = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer)
    found = problem.lower_chain.optimize(
        ll_feed_dict=pair[0],
        ul_feed_dict=pair[1],
        auxiliary_model=trajectory,
        current_iter=step - 1,
        multiplier=multiplier,
        ul_var=problem.ul_var,
        ll_state=ll_state,
    )[-1]
    problem.advance_upper_statistics(trajectory)
    events.seconds["hypergradient"] += time.perf_counter() - begun
    result = HyperGradientResult(
        gradients=found["hyper_gradient"],
        upper_loss=found["upper_loss"],
        lower_loss=found["lower_loss"],
        diagnostics=found["diagnostics"],
        ll_parameters=found["ll_parameters"],
        upper_loss_at=problem.ll_var,
        ll_state=found["ll_state"],
        auxiliary={"multiplier": found["multiplier"]},
        ul_learning_rate=found["ul_learning_rate"],
        failure=lower_failure(problem.finisher, step, 1, found["lower_loss"], found["ll_parameters"]),
    )
    events.call("on_hypergradient_end", result)
    return result

"""One step of a first-order method."""

from __future__ import annotations

import time

from jboat.fo_ol.first_order import Auxiliary
from jboat.lower_objective import batch_of_step
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.chains import Events, Problem, lower_failure
from jboat.trainers.outer_step.result import HyperGradientResult


def first_order_pass(
    problem: Problem, pair: Pair, *, step: int, auxiliary: Auxiliary | None, events: Events
) -> HyperGradientResult:
    """Run the method; nothing of the user's is changed but running statistics.

    Args:
        problem: the two levels.
        pair: the lower and the upper batch.
        step: the outer step under way, counted from 1.
        auxiliary: what the method kept from the step before.
        events: called before and after; there are no lower steps to tell of.
    """
    assert problem.fo_op is not None
    events.call("on_hypergradient_start")
    begun = time.perf_counter()
    with problem.method.advancing_statistics():
        found = problem.method.optimize(batch_of_step(pair[0], 0), pair[1], step - 1, auxiliary)
    events.seconds["hypergradient"] += time.perf_counter() - begun
    result = HyperGradientResult(
        gradients=found.gradients,
        upper_loss=found.upper_loss,
        lower_loss=found.lower_loss,
        diagnostics=found.diagnostics,
        ll_parameters=found.ll_parameters,
        upper_loss_at=[] if found.upper_loss_after_step else problem.ll_var,
        ll_state=found.ll_state,
        auxiliary=found.auxiliary,
        failure=lower_failure(problem.fo_op, step, 1, found.lower_loss, found.ll_parameters),
    )
    events.call("on_hypergradient_end", result)
    return result

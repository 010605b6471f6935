"""Which kind of outer step a problem asks for."""

from __future__ import annotations

from jboat.trainers.outer_step.chains import Chains
from jboat.trainers.outer_step.dual_multiplier import DualMultiplier
from jboat.trainers.outer_step.first_order import FirstOrderMethod
from jboat.trainers.outer_step.method import OuterMethod
from jboat.trainers.outer_step.problem import Problem
from jboat.trainers.outer_step.single_loop import SingleLoopMethod


def chosen(problem: Problem) -> OuterMethod:
    """The method of a problem's operators, once for all its steps."""
    if problem.fo_op is not None:
        return FirstOrderMethod(problem)
    if problem.sl_op is not None:
        return SingleLoopMethod(problem)
    return DualMultiplier(problem) if problem.plan.multiplier_mover is not None else Chains(problem)

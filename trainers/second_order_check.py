"""Refuse to train through operations whose second derivative is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import functional, registry, second_order
from jboat.lower_objective import LowerObjective, batch_of_step
from jboat.trainers import seeding
from jboat.trainers.bilevel_pass import Problem
from jboat.trainers.step_batches import Pair
from jboat.trajectory import Trajectory
import jittor as jt

_POOLS = ("Pool", "MaxPool1d", "MaxPool2d", "MaxPool3d")


class SecondOrderError(ArithmeticError):
    """The second derivative of the lower objective is wrong; the message names the suspects."""


def needs_second_order(problem: Problem) -> bool:
    """Whether the operators take second derivatives of the lower objective."""
    if problem.fo_op is not None:
        options = registry.operators("fo")[problem.fo_op].options
        section = registry.options(problem.sections, problem.fo_op) if options is not None else None
        return getattr(section, "penalty", "value") == "gradient"
    implicit_or_unrolled = {"RAD", "CG", "NS"} & set(problem.na_op)
    through_initialisation = "IAD" in problem.na_op and "FOA" not in problem.na_op
    return bool(implicit_or_unrolled or through_initialisation or {"DI", "DM"} & set(problem.gm_op))


def check_second_order(problem: Problem, pair: Pair, initial: Sequence[jt.Var]) -> None:
    """Compare one Hessian-vector product of the lower objective with finite differences of its gradient.

    Args:
        problem: the two levels.
        pair: the batches to do it on.
        initial: y_0.

    Raises:
        SecondOrderError: if they differ by more than ``jboat.second_order.TOLERANCE``, relatively.
    """
    objective = LowerObjective(problem.ll_objective, problem.ul_objective, problem.ul_model, problem.solver_config())
    view = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer, initial=initial)
    buffers = functional.buffers(problem.ul_model)
    anchor = view.parameters()

    def value(y: Sequence[jt.Var]) -> jt.Var:
        def call(model: Trajectory) -> jt.Var:
            return objective(model, y, 0, batch_of_step(pair[0], 0), pair[1], anchor)

        seeding.reseed_jittor(0)
        return view.evaluate(call, y)

    with functional.preserved(buffers):
        error = second_order.disagreement(value, anchor)
    if error > second_order.TOLERANCE:
        raise SecondOrderError(
            "the Hessian-vector product of the lower objective differs from finite differences of its gradient by "
            f"{error:.0%} (allowed: {second_order.TOLERANCE:.0%}), so the hypergradient would be wrong."
            f"{_suspects(problem)} Choose operators without second derivatives (FD, IGA, FOA+IAD, first-order methods) "
            "or pass check_second_order=False if you know better."
        )


def _suspects(problem: Problem) -> str:
    found = []
    for model in (problem.ll_model, problem.ul_model):
        for name, module in model.named_modules():
            kind = type(module).__name__
            pools = kind in _POOLS and type(module).__module__.startswith("jittor")
            if isinstance(module, jt.Function) or (pools and getattr(module, "op", "maximum") == "maximum"):
                found.append(f"{name or 'the model itself'} ({kind})")
    if not found:
        return " Suspects are max pooling and subclasses of jt.Function called by your code."
    return f" Suspects: {', '.join(found)}; jboat.nn has max pooling that can be differentiated twice."

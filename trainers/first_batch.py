"""What can be found wrong with the objectives on the first batch, before a step is taken."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
import logging
from typing import Any

from jboat import functional, levels, second_order
from jboat.lower_objective import LowerObjective
from jboat.projection_levels import watched
from jboat.projections import applied
from jboat.trainers import seeding, target_shapes
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.errors import SecondOrderError
from jboat.trainers.outer_step import device_memory
from jboat.trainers.outer_step.method import OuterMethod, Start
from jboat.trainers.outer_step.problem import Problem
from jboat.trajectory import Trajectory
from jboat.warn_once import WarnOnce
import jittor as jt

_SEED = 20011
_logger = logging.getLogger("jboat")


class SecondOrderCheck:
    """Whether second derivatives are still to be looked at, which is done once for the same objectives."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._warn = WarnOnce()
        self._learned_seen = False

    def is_due(self, method: OuterMethod) -> bool:
        """Whether the operators need second derivatives of an objective that has not passed yet."""
        now = _objectives(method.problem)
        same = len(now) == len(self._seen) and all(a is b for a, b in zip(now, self._seen, strict=True))
        return not same and method.needs_second_derivatives

    def check(self, method: OuterMethod, pair: Pair, start: Start, *, second_order: bool = True) -> None:
        """Call both objectives once; see :func:`check_first_batch`.

        Args:
            method: how the outer step is done.
            pair: the lower batch, or K of them, and the upper batch.
            start: where it starts.
            second_order: whether to look at second derivatives, unless these objectives have passed before.
        """
        due = second_order and self.is_due(method)
        with device_memory.named(method.name, start.step), target_shapes.watched(_batches(pair)) as found:
            check_first_batch(method, pair, start.y, step=start.step, check_second_order=due)
        if found:
            self._warn("%s; reshape it, as by target.reshape(-1, 1)", found[0])
        self._look_at_learned(method.problem)
        if due:
            self._seen = _objectives(method.problem)

    def _look_at_learned(self, problem: Problem) -> None:
        """Warn, the first time alone, of functions of ``ll_hyperparameters`` from which nothing is learned."""
        learned, self._learned_seen = (None if self._learned_seen else problem.learned), True
        idle = [] if learned is None else learned.idle(problem.ul_var)
        if idle:
            self._warn(
                "ll_hyperparameters: the derivative of %s by every variable of the upper level is exactly zero, so "
                "that nothing is learned there. Likely causes: the function uses no variable that ul_optimizer holds, "
                "or a copy of one (detach, item, numpy, a Var made from its numbers), or a bound such as clamp or relu "
                "has been reached.",
                " and ".join(repr(name) for name in idle),
            )


def _batches(pair: Pair) -> list[Any]:
    """The batches of a pair, those of a level in a list."""
    return [batch for feed in pair for batch in (feed if isinstance(feed, list) else [feed])]


def _objectives(problem: Problem) -> tuple[object, ...]:
    return problem.ll_objective, problem.ul_objective, problem.gda_loss


def check_first_batch(
    method: OuterMethod, pair: Pair, initial: Sequence[jt.Var], *, step: int, check_second_order: bool
) -> None:
    """Call both objectives once, and see whether second derivatives are right where the operators need them.

    Unless second derivatives are looked at, the objectives are called without being run, so that nothing is compiled.
    What cannot be decided is a warning where operations with a hand-written gradient were used, which it names, and
    else, as behind the kinks of many ReLUs, a line of level INFO.

    Args:
        method: how the outer step is done.
        pair: the first lower batch, or K of them, and the first upper batch.
        initial: y_0.
        step: the outer step that is to come, counted from 1.
        check_second_order: whether to look at second derivatives.

    Raises:
        TypeError: if an objective does not return a Var.
        ValueError: if one does not return a scalar.
        SecondOrderError: if the lower objective uses an operation whose second derivative is wrong; see
            :mod:`jboat.second_order`.
    """
    problem, watch = method.problem, check_second_order and method.needs_second_derivatives
    trajectory = Trajectory(problem.ll_model, problem.ll_var, problem.ll_optimizer, initial=initial)
    y = trajectory.parameters()
    start = functional.detached(y)  # apart from y: what is pulled towards the start is differentiated by y alone
    phi = LowerObjective(problem.ll_objective, problem.ul_objective, problem.ul_model, problem.config)
    feeds = levels.batch_of_step(pair[0], 0), levels.batch_of_step(pair[1], 0)

    def value(parameters: Sequence[jt.Var]) -> jt.Var:
        jt.set_seed(_SEED)  # every call draws the same dropout mask
        return trajectory.evaluate(lambda model: phi(model, problem.ll_var, 0, *feeds, start), parameters)

    with functional.preserved(problem.statistics()):
        found = second_order.HandWritten()
        for objective, feed in zip((problem.ll_objective, problem.ul_objective), feeds, strict=True):
            differentiated = objective is problem.ll_objective or phi.aggregated
            with second_order.watched(found) if watch and differentiated else nullcontext():
                levels.call(objective, feed, problem.ul_model, problem.ll_model, parameters=problem.ll_var)
        for argument, projection, variables in (
            ("ll_projection", problem.ll_projection, problem.ll_var),
            ("ul_projection", problem.ul_projection, problem.ul_var),
        ):
            if projection is not None:
                with watched(argument, step):
                    applied(projection, functional.detached(variables), argument)
        if problem.learned is not None:
            problem.learned.values()
        if not watch:
            return
        if found.fatal:
            raise SecondOrderError(
                f"check_second_order: differentiating {', '.join(found.fatal)} twice ends the process, and "
                f"{method.name} needs second derivatives of the lower objective. Use other operations there, or "
                "pass check_second_order=False if no variable passes through it."
            )
        wrong, undecided = second_order.examined(value, y, suspicious=bool(found.names))
        jt.set_seed(seeding.drawn_seed())
    names = {id(p): name for name, p in problem.ll_model.named_parameters()}
    places = [names.get(id(v), f"ll_var[{i}]") for i, v in enumerate(problem.ll_var)]
    if undecided:
        _logger.log(
            logging.WARNING if found.names else logging.INFO,
            "check_second_order: whether the second derivatives of the lower objective are right in %s could not be "
            "decided: kinks, such as those of ReLU, lie too close. %s",
            _shortened([places[i] for i in undecided]),
            f"Operations whose gradients are written by hand, and often wrong when differentiated again: "
            f"{', '.join(found.names)}. Make sure of them, or take others."
            if found.names
            else "No operation with a hand-written gradient was used.",
        )
    if wrong:
        differing = ", ".join(f"{places[i]} by {error:.0%}" for i, error in wrong.items())
        suspects = (
            f"Suspects, whose gradients are written by hand: {', '.join(found.names)}."
            if found.names
            else f"Suspects: what stops a gradient (detach, stop_grad, no_grad) on the way {_through(problem, wrong)}."
        )
        raise SecondOrderError(
            "check_second_order: a Hessian-vector product of the lower objective differs from a central difference of "
            f"its gradient in {differing}, and {method.name} needs second derivatives. {suspects} "
            "If the product is right all the same, pass check_second_order=False."
        )


def _shortened(names: Sequence[str]) -> str:
    """Some names of many, in words."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _through(problem: Problem, wrong: Collection[int]) -> str:
    """The modules that own the variables at the positions in ``wrong``, in words."""
    owners = {
        id(p): f"{name or 'll_model'} ({type(module).__name__})"
        for name, module in problem.ll_model.named_modules()
        for p in vars(module).values()
    }
    modules = dict.fromkeys(owners[id(problem.ll_var[i])] for i in wrong if id(problem.ll_var[i]) in owners)
    return f"through {', '.join(modules)}" if modules else "from ll_var to the objective"

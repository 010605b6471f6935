"""The base class of the first-order methods, which replace both chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jboat import autodiff, functional
from jboat import lower_objective as lower
from jboat.lower_objective import Batch, Objective
from jboat.optim import OptimizerState, UpdateRule
from jboat.trajectory import JOINED_STEPS, Trajectory, is_small
import jittor as jt

Auxiliary = dict[str, list[jt.Var]]
Value = Callable[[Sequence[jt.Var]], jt.Var]


@dataclass
class FirstOrderStep:
    """What one step of a first-order method yields; nothing has been moved yet.

    Attributes:
        gradients: the direction in which the upper optimizer moves x, one Var per entry of ``ul_var``.
        ll_parameters: y after the step, one Var per entry of ``ll_var``.
        ll_state: the lower optimizer's state after the step.
        upper_loss: F before the step, or, in methods whose y moves before x is looked at (ALTO, VSO), after it.
        lower_loss: f before the step, or, in VSO, after it.
        auxiliary: what the method keeps for its next step.
        diagnostics: numbers by name.
    """

    gradients: list[jt.Var]
    ll_parameters: list[jt.Var]
    ll_state: OptimizerState
    upper_loss: float
    lower_loss: float
    auxiliary: Auxiliary = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)


@dataclass
class Gradients:
    """A loss with its gradients by x and y, detached; a gradient that was not wanted is empty."""

    loss: jt.Var
    by_x: list[jt.Var]
    by_y: list[jt.Var]


class FirstOrder:
    """A method that needs first derivatives alone.

    x is moved by the user's upper optimizer along ``FirstOrderStep.gradients``, y by the differentiable rule of the
    user's lower optimizer, whose state carries over from step to step.

    Args:
        ll_objective: f, called ``f(ll_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        ul_objective: F, called ``F(ul_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        ll_model: the lower-level model.
        ul_model: the upper-level model.
        ll_var: the Vars y that the lower level optimizes.
        ul_var: the Vars x that the upper level optimizes.
        lower_loop: the number of inner steps, for methods that have them.
        solver_config: ``lower_level_opt`` and the method's own section.

    Attributes:
        keeps: the names in ``FirstOrderStep.auxiliary``, each for one Var per variable of the lower level, by which a
            checkpoint is checked; None where a method does not tell.
    """

    keeps: tuple[str, ...] | None = None

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ll_model: jt.Module,
        ul_model: jt.Module,
        ll_var: Sequence[jt.Var],
        ul_var: Sequence[jt.Var],
        lower_loop: int,
        solver_config: Mapping[str, Any],
    ) -> None:
        self.ll_objective = ll_objective
        self.ul_objective = ul_objective
        self.ll_model = ll_model
        self.ul_model = ul_model
        self.ll_var = list(ll_var)
        self.ul_var = list(ul_var)
        self.lower_loop = lower_loop
        self.solver_config = solver_config
        self.rule = UpdateRule(solver_config["lower_level_opt"], self.ll_var)
        self._view = Trajectory(ll_model, self.ll_var, solver_config["lower_level_opt"])
        self._ul_buffers = functional.buffers(ul_model)
        self._small = is_small(self.ll_var)

    def needs_second_derivatives(self) -> bool:
        """Whether, with its present options, it differentiates a gradient."""
        return False

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """One step from the variables' present values; nothing is moved.

        Args:
            ll_feed_dict: the lower batch.
            ul_feed_dict: the upper batch.
            current_iter: the number of the outer step, from 0.
            auxiliary: what the step before returned as ``auxiliary``; None at the first one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define optimize()")

    def lower_value(self, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        """The lower objective f at y, with its graph."""
        return self._value(self.ll_objective, y, feed)

    def upper_value(self, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        """The upper objective F at y, with its graph."""
        return self._value(self.ul_objective, y, feed)

    def gradients(self, value: Value, y: Sequence[jt.Var], *, by_x: bool = True, by_y: bool = True) -> Gradients:
        """``value(y)`` and its gradients by x and y, or one of them, which saves work.

        They are computed, or in small models left to the next ``sync``, since every start of one costs time.
        """
        loss = value(y)
        wanted = [*(self.ul_var if by_x else []), *(y if by_y else [])]
        found = functional.detached(autodiff.grad(loss, wanted))
        if not self._small:
            jt.sync([loss, *found])
        count = len(self.ul_var) if by_x else 0
        return Gradients(loss.detach(), found[:count], found[count:])

    def descend(
        self, value: Value, y: Sequence[jt.Var], *, lr: float, steps: int, first: Sequence[jt.Var] | None = None
    ) -> list[jt.Var]:
        """``steps`` plain gradient steps on ``value`` from y, where its gradient may be known as ``first``."""
        current = functional.detached(y)
        joined = JOINED_STEPS if self._small else 1
        for step in range(steps):
            known = first if step == 0 else None
            gradient = autodiff.grad(value(current), current) if known is None else known
            current = functional.detached(functional.axpy(-lr, gradient, current))
            if (step + 1) % joined == 0 or step + 1 == steps:
                jt.sync(current)
        return current

    def value_gap(self, y: Sequence[jt.Var], feed: Batch, *, lr: float) -> tuple[Gradients, Gradients]:
        """Both ends of ``f(x, y) - f(x, y_hat)``: all gradients at y, that by x at y_hat, ``lower_loop`` steps away."""

        def value(v: Sequence[jt.Var]) -> jt.Var:
            return self.lower_value(v, feed)

        here = self.gradients(value, y)
        y_hat = self.descend(value, y, lr=lr, steps=self.lower_loop, first=here.by_y)
        return here, self.gradients(value, y_hat, by_y=False)

    def lower_step(
        self,
        y: Sequence[jt.Var],
        gradient: Sequence[jt.Var],
        state: OptimizerState | None = None,
        *,
        together_with: Sequence[jt.Var] = (),
    ) -> tuple[list[jt.Var], OptimizerState]:
        """One step of the user's lower optimizer with this gradient, from its present state unless another is given.

        What is ``together_with`` it is computed in the same run.
        """
        moved, after = self.rule.update(y, gradient, self.rule.load() if state is None else state)
        moved = functional.detached(moved)
        after = OptimizerState(after.step, tuple(tuple(v.detach() for v in slots) for slots in after.slots))
        jt.sync([*moved, *(v for slots in after.slots for v in slots), *together_with])
        return moved, after

    def start(self) -> list[jt.Var]:
        """The present value of y, as leaves."""
        return functional.detached(self.ll_var)

    def _value(self, objective: Objective, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        def call(model: Trajectory) -> jt.Var:
            return lower.call(objective, feed, self.ul_model, model, parameters=y)

        with functional.preserved(self._ul_buffers):
            return self._view.evaluate(call, y)

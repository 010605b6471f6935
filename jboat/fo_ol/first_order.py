"""The base classes of the methods that replace both chains, and of the first-order ones among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from jboat import autodiff, functional, levels, registry, running_statistics
from jboat.levels import Batch, Objective
from jboat.lower_objective import with_weight_decay
from jboat.optim import OptimizerState, UpdateRule
from jboat.outer_step import OuterStep
from jboat.projections import applied
from jboat.step_graphs import JoinedSteps, is_small
from jboat.warn_once import WarnOnce
import jittor as jt

Auxiliary: TypeAlias = "dict[str, list[jt.Var]]"
Value: TypeAlias = "Callable[[Sequence[jt.Var]], jt.Var]"


class FirstOrderStep(OuterStep):
    """What one step of a first-order method yields; nothing has been moved yet.

    Args:
        gradients: the direction in which the upper optimizer moves x, one Var per entry of ``ul_var``.
        ll_parameters: y after the step, one Var per entry of ``ll_var``.
        ll_state: the lower optimizer's state after the step.
        upper_loss: F before the step, or, in methods whose y moves before x is looked at (ALTO, VSO), after it.
        lower_loss: f before the step, or, in VSO, after it.
        auxiliary: what the method keeps for its next step.
        diagnostics: numbers by name.
        upper_loss_after_step: whether ``upper_loss`` is F at ``ll_parameters`` rather than at y before the step.
        value: gives what ``gradients`` are the derivative of, with its graph, at the x that ``ul_var`` holds when it is
            called and with everything else held as in this step. HypergradientCheck needs it; None if there is none.
    """

    def __init__(
        self,
        gradients: list[jt.Var],
        ll_parameters: list[jt.Var],
        ll_state: OptimizerState,
        upper_loss: float,
        lower_loss: float,
        auxiliary: Auxiliary | None = None,
        diagnostics: dict[str, float] | None = None,
        upper_loss_after_step: bool = False,
        value: Callable[[], jt.Var] | None = None,
    ) -> None:
        super().__init__(
            gradients,
            upper_loss,
            lower_loss,
            ll_parameters=ll_parameters,
            ll_state=ll_state,
            auxiliary=auxiliary or {},
            diagnostics=diagnostics or {},
            value=value,
        )
        self.upper_loss_after_step = upper_loss_after_step


@dataclass
class Gradients:
    """A value with its gradients by x and y, all detached.

    Attributes:
        loss: what the objective returned.
        value: what was differentiated: the loss, or for the lower objective the loss plus the coupled weight decay.
        by_x: one Var per entry of ``ul_var``, or nothing where it was not wanted.
        by_y: one Var per entry of ``ll_var``, or nothing where it was not wanted.
    """

    loss: jt.Var
    value: jt.Var
    by_x: list[jt.Var]
    by_y: list[jt.Var]


class Chainless:
    """A method that replaces both chains, with what all of them need of both levels.

    x is moved by the user's upper optimizer along ``OuterStep.gradients``, y by the differentiable rule of the
    user's lower optimizer, whose state carries over from step to step. The lower problem is that of phi, which is f
    plus the lower optimizer's coupled weight decay, ``f + sum_i (wd_i / 2) ||y_i||^2``: the decay belongs to the
    lower level, as in every other operator, and is not added once more when y moves.

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
        zero_because: why its direction of x may be exactly zero, in a clause; empty where there is no such reason.
    """

    zero_because: ClassVar[str] = ""

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
        levels.upper_variables_are(ul_var, ul_model)
        self._operator = registry.registered(type(self))
        _, self._options = registry.plan_and_options(solver_config)
        self.rule = UpdateRule(solver_config["lower_level_opt"], self.ll_var)
        self._ul_statistics = functional.buffers(ul_model)
        self._ll_statistics = functional.buffers(ll_model)
        self._noted: dict[str, list[jt.Var]] = {}
        self._start: list[jt.Var] = []
        self._small = is_small(self.ll_var)
        self.warn = WarnOnce()

    @property
    def options(self) -> Any:
        """The method's own options; None where it has none."""
        return None if self._operator is None else self._options.of(self._operator)

    @staticmethod
    def cannot_project(options: Any) -> str:
        """Why the method with these options cannot have its lower level constrained, in a clause; empty if it can."""
        return ""

    def needs_second_derivatives(self) -> bool:
        """Whether, with its present options, it differentiates a gradient."""
        return False

    def lower_value(self, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        """Phi at y, the lower objective f with the coupled weight decay, with its graph."""
        return self.lower_values(y, feed)[1]

    def lower_values(self, y: Sequence[jt.Var], feed: Batch) -> tuple[jt.Var, jt.Var]:
        """The values of f and phi at y, with their graphs; without coupled weight decay the same Var twice."""
        loss = self.lower_loss(y, feed)
        name = type(self).__name__
        return loss, with_weight_decay(loss, y, self.rule, operator=name, warn=self.warn)

    def upper_value(self, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        """The upper objective F at y, with its graph."""
        return self._value(self.ul_objective, y, feed, of_lower=False)

    def lower_loss(self, y: Sequence[jt.Var], feed: Batch) -> jt.Var:
        """The lower objective f at y as the user wrote it, with its graph."""
        return self._value(self.ll_objective, y, feed, of_lower=True)

    def _value(self, objective: Objective, y: Sequence[jt.Var], feed: Batch, *, of_lower: bool) -> jt.Var:
        def call() -> jt.Var:
            loss = levels.call(objective, feed, self.ul_model, self.ll_model, parameters=self.ll_var)
            if self._ll_statistics or self._ul_statistics:
                self._note(y, of_lower=of_lower)
            return loss

        with functional.preserved([*self._ul_statistics, *self._ll_statistics]):
            loss: jt.Var = functional.called_with(y, self.ll_var, call)
            return loss

    def gradients(self, value: Value, y: Sequence[jt.Var], *, by_x: bool = True, by_y: bool = True) -> Gradients:
        """``value(y)`` and its gradients by x and y, or one of them, which saves work.

        They are computed, or in small models left to the next ``sync``, since every start of one costs time.
        """
        loss = value(y)
        return self._gradients(loss, loss, y, by_x=by_x, by_y=by_y)

    def lower_gradients(self, y: Sequence[jt.Var], feed: Batch, *, by_x: bool = True, by_y: bool = True) -> Gradients:
        """The gradients of phi, as :meth:`gradients`, with f as the loss."""
        return self._gradients(*self.lower_values(y, feed), y, by_x=by_x, by_y=by_y)

    def _gradients(self, loss: jt.Var, value: jt.Var, y: Sequence[jt.Var], *, by_x: bool, by_y: bool) -> Gradients:
        wanted = [*(self.ul_var if by_x else []), *(y if by_y else [])]
        found = autodiff.grad(value, wanted)
        found = functional.detached(found) if self._small else functional.cut(found, together_with=[loss, value])
        count = len(self.ul_var) if by_x else 0
        return Gradients(loss.detach(), value.detach(), found[:count], found[count:])

    def descend(
        self, value: Value, y: Sequence[jt.Var], *, lr: float, steps: int, first: Sequence[jt.Var] | None = None
    ) -> list[jt.Var]:
        """``steps`` plain gradient steps on ``value`` from y, where its gradient may be known as ``first``."""
        current = functional.detached(y)
        joined = JoinedSteps(small=self._small)
        for step in range(steps):
            known = first if step == 0 else None
            gradient = autodiff.grad(value(current), current) if known is None else known
            current = joined.cut(self.projected(functional.axpy(-lr, gradient, current)))
        joined.settle()
        return current

    def projected(self, y: Sequence[jt.Var]) -> list[jt.Var]:
        """What ``ll_projection`` makes of a point of the lower level, with its graph; the point itself without one."""
        projection = self.solver_config.get("ll_projection")
        return list(y) if projection is None else applied(projection, y, "ll_projection")

    def value_gap(
        self, y: Sequence[jt.Var], feed: Batch, *, lr: float
    ) -> tuple[Gradients, Gradients, Callable[[], jt.Var]]:
        """Both ends of ``phi(x, y) - phi(x, y_hat)``, y_hat ``lower_loop`` steps from y, where only x matters.

        Returns:
            The gradients at y and at y_hat, and what gives the difference at another x, y and y_hat held.
        """

        def value(v: Sequence[jt.Var]) -> jt.Var:
            return self.lower_value(v, feed)

        here = self.lower_gradients(y, feed)
        y_hat = self.descend(value, y, lr=lr, steps=self.lower_loop, first=here.by_y)
        there = self.lower_gradients(y_hat, feed, by_y=False)
        return here, there, lambda: value(y) - value(y_hat)

    def lower_step(
        self,
        y: Sequence[jt.Var],
        gradient: Sequence[jt.Var],
        state: OptimizerState | None = None,
        *,
        decay_included: bool = True,
        together_with: Sequence[jt.Var] = (),
    ) -> tuple[list[jt.Var], OptimizerState]:
        """One step of the user's lower optimizer with this gradient, from its present state unless another is given.

        Args:
            y: one Var per lower-level variable.
            gradient: the direction, one Var per variable.
            state: the optimizer's state; by default its present one.
            decay_included: whether the coupled weight decay is in the direction, as it is where phi is differentiated.
            together_with: what is computed in the same run.
        """
        before = self.rule.load() if state is None else state
        moved, after = self.rule.update(y, gradient, before, decay_included=decay_included)
        moved, slots = functional.cut_lists(self.projected(moved), after.flat(), together_with=together_with)
        return moved, after.with_slots(slots)

    def start(self) -> list[jt.Var]:
        """The present value of y, as leaves."""
        self._start = functional.detached(self.ll_var)
        return self._start

    @contextmanager
    def advancing_statistics(self) -> Iterator[None]:
        """Let the running statistics of both models advance once for the step that is made inside the block.

        The lower model's advance by the lower objective at :meth:`start` or, in a method that does not look there, by
        the last call of it; the upper model's by the upper objective or, where that does not run it, by the same.
        """
        self._noted, self._start = {}, []
        yield
        lower_run, noted = self._noted.get("ul by f"), self._noted
        running_statistics.advance(self._ll_statistics, noted.get("ll by f"))
        running_statistics.advance(self._ul_statistics, noted.get("ul by F"), lower_run)

    def _note(self, y: Sequence[jt.Var], *, of_lower: bool) -> None:
        if not of_lower:
            self._noted.setdefault("ul by F", running_statistics.noted(self._ul_statistics))
        elif "at start" not in self._noted:
            self._noted["ll by f"] = running_statistics.noted(self._ll_statistics)
            self._noted["ul by f"] = running_statistics.noted(self._ul_statistics)
            if self._start and y[0] is self._start[0]:
                self._noted["at start"] = []


class FirstOrder(Chainless):
    """A method that needs first derivatives alone.

    Attributes:
        keeps: the names in ``FirstOrderStep.auxiliary``, each for one Var per variable of the lower level, by which a
            checkpoint is checked; None where a method does not tell.
    """

    keeps: tuple[str, ...] | None = None

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

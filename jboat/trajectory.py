"""The lower-level iterates y_0..y_K and their reverse-mode derivative.

How the steps become graphs is :mod:`jboat.step_graphs`'s. Going backwards, each graph is pulled back by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
import copy
import functools
import gc
from typing import Any, TypeAlias

from jboat import autodiff, functional, precision
from jboat.backend import free_memory
from jboat.backend.replicated import LaterSums
from jboat.learned_hyperparameters import LearnedHyperparameters
from jboat.number_of_checkpoints import StepSize
from jboat.optim import OptimizerState, UpdateRule
from jboat.projections import Projection, applied
from jboat.step_graphs import StepGraphs, is_small
from jboat.trial_calls import on_trial
import jittor as jt

StepObjective: TypeAlias = "Callable[[jt.Module], jt.Var]"


class OfEachStep:
    """Phi of all steps, of which a long loop holds one instead of a function for each step.

    Args:
        phi: called with the inner step and the module.
    """

    def __init__(self, phi: Callable[[int, jt.Module], jt.Var]) -> None:
        self._phi = phi

    def at(self, step: int) -> StepObjective:
        """Phi of one step."""
        return functools.partial(self._phi, step)


class Trajectory:
    """The iterates of one lower-level run; the ``auxiliary_model`` of every operator.

    Calling it runs the module at its last iterate. Attributes it does not have itself are the module's. Objectives
    never see it: they get the module, which holds an iterate while they run.

    Args:
        module: the lower-level model. Its variables hold iterates while it runs, and come back unchanged.
        variables: the Vars that the lower level optimizes.
        optimizer: the lower-level optimizer, which holds them; its differentiable rule takes the steps.
        initial: y_0, one Var per variable; by default the variables' present values.
        state: the optimizer's state before the first step; by default that of a fresh optimizer.
        remat_every: how many steps are rebuilt at once where graphs were not kept.
        reseed: called with the inner step before it is built, so that a rebuilt step draws the same random numbers.
        projection: applied to the iterate after every step of the optimizer, and a part of the step.
        learned: those of the optimizer's numbers that the upper model gives.

    Attributes:
        upper_statistics: what the upper model's running statistics would be after the lower objective of the first step
            (``"lower"``) and after the upper objective (``"upper"``); shared with every view.
        lower_objective: phi, which the lower steps minimise, for whoever differentiates it at an iterate; called as a
            :class:`jboat.lower_objective.LowerObjective`. None until it is said.
    """

    def __init__(
        self,
        module: jt.Module,
        variables: Sequence[jt.Var],
        optimizer: jt.optim.Optimizer,
        *,
        initial: Sequence[jt.Var] | None = None,
        state: OptimizerState | None = None,
        remat_every: int = 1,
        reseed: Callable[[int], None] | None = None,
        projection: Projection | None = None,
        learned: LearnedHyperparameters | None = None,
    ) -> None:
        self._module = module
        self._variables = list(variables)
        self._buffers = functional.buffers(module)
        self._rule = UpdateRule(optimizer, variables)
        self._hyperparameters = self._rule.hyperparameters()
        self._reseed = reseed
        self._projection = projection
        self._learned = learned
        y_0 = functional.cut(variables if initial is None else initial)
        self._start = self._rule.fresh_state(y_0) if state is None else state
        self._objectives: list[StepObjective | OfEachStep] = []
        self._graphs = StepGraphs(
            [*y_0, *self._start.flat()],
            small=is_small(y_0) and not self._start.flat(),
            rebuilt_at_once=remat_every,
            together_with=self._buffers,
        )
        self.upper_statistics: dict[str, list[jt.Var]] = {}
        self.lower_objective: Callable[..., jt.Var] | None = None
        self._first = 0
        self._last: int | None = None
        self._constant_gradients = False

    def __call__(self, *args: Any, params: Sequence[jt.Var] | None = None, **kwargs: Any) -> Any:
        """Run the module with ``params``, one Var per lower-level variable; by default at the last iterate in use."""
        values = self.parameters() if params is None else list(params)
        return functional.called_with(values, self._variables, self._module, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Attributes of the module."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._module, name)

    def __len__(self) -> int:
        """The number of steps taken."""
        return len(self._objectives)

    @property
    def last(self) -> int:
        """The inner step of the last iterate in use: K, or less after :meth:`until`."""
        return len(self) if self._last is None else self._last

    @property
    def first(self) -> int:
        """The inner step from which derivatives are tracked: 0, or more after :meth:`since`."""
        return self._first

    @property
    def module(self) -> jt.Module:
        """The lower-level model itself."""
        return self._module

    @property
    def variables(self) -> list[jt.Var]:
        """The module's Vars that the lower level optimizes."""
        return list(self._variables)

    @property
    def learning_rates(self) -> list[float]:
        """The lower-level learning rate of each variable."""
        return [float(h["lr"]) for h in self._hyperparameters]

    @property
    def update_rule(self) -> UpdateRule:
        """The rule of the lower-level optimizer."""
        return self._rule

    @property
    def optimizer_state(self) -> OptimizerState:
        """The lower-level optimizer's state after the last step taken."""
        return self._state(len(self), self._leaves(len(self)))

    def parameters(self, time: int = -1) -> list[jt.Var]:
        """The iterate at inner step ``time``.

        Args:
            time: 0 to K, or -1 for the last iterate in use.

        Returns:
            One leaf Var per lower-level variable.

        Raises:
            ValueError: if there is no such iterate.
        """
        return self._leaves(self._checked(time))[: len(self._variables)]

    def _leaves(self, step: int) -> list[jt.Var]:
        return self._graphs.leaves(step, self._rebuilt)

    def _checked(self, time: int) -> int:
        """An inner step of which there is an iterate, by itself or by -1."""
        if time == -1:
            time = self.last
        if not 0 <= time <= len(self):
            raise ValueError(f"time must lie in 0..{len(self)} or be -1, got {time}")
        return time

    def until(self, time: int) -> Trajectory:
        """The same trajectory ending at inner step ``time``."""
        return self._view(_last=self._checked(time))

    def since(self, time: int) -> Trajectory:
        """The same trajectory with the iterate at inner step ``time`` a constant."""
        return self._view(_first=self._checked(time))

    def with_constant_gradients(self) -> Trajectory:
        """The same trajectory with every inner gradient a constant."""
        return self._view(_constant_gradients=True)

    def _view(self, **changes: Any) -> Trajectory:
        view = copy.copy(self)
        view.__dict__.update(changes)
        return view

    def evaluate(self, objective: Callable[[jt.Module], jt.Var], parameters: Sequence[jt.Var] | None = None) -> jt.Var:
        """``objective(module)`` with the module at ``parameters``, by default the last iterate in use.

        Running statistics stay as they are.
        """
        with functional.preserved(self._buffers):
            return self._at(self.parameters() if parameters is None else parameters, objective)

    def _at(self, parameters: Sequence[jt.Var], objective: Callable[[jt.Module], jt.Var]) -> jt.Var:
        loss: jt.Var = functional.called_with(parameters, self._variables, objective, self._module)
        return loss

    def advance(
        self, objective: StepObjective | OfEachStep, *, keep_graph: bool, join: bool = False, with_loss: bool = False
    ) -> jt.Var | None:
        """Take one lower step.

        Args:
            objective: phi of this step, called with the module, which holds the last iterate; differentiated by that.
                Or phi of all steps.
            keep_graph: whether to keep the step's graph. If not, a pullback rebuilds it.
            join: whether the step may be computed with its neighbours, and share its graph with them if graphs are
                kept; then call :meth:`settle` after the last one. Only small models do, without random numbers, whose
                optimizer keeps no state.
            with_loss: whether phi itself is wanted, which its gradient does not need.

        Returns:
            With ``with_loss`` phi before the step, a scalar Var.
        """
        step = len(self)
        if self._reseed:
            self._reseed(step)
        with self._graphs.watching_random_numbers() if step == 0 else nullcontext():
            loss, outputs = self._built(step, _of(objective, step), self._graphs.inputs())
        wanted = [loss] if with_loss else []
        del loss  # one that is held is computed with the rest
        self._objectives.append(objective)
        self._graphs.add(outputs, keep=keep_graph, join=join, together_with=wanted)
        return wanted[0].detach() if wanted else None

    def settle(self) -> None:
        """Compute the steps that were taken and not computed yet."""
        self._graphs.settle()

    def keep_few(self, iterates: int, *, steps: int, begin: int = 0) -> None:
        """Keep few iterates of the steps that come, and no graphs; whatever else is asked for is computed again.

        Args:
            iterates: C, how many are kept of those from ``begin`` on, that one among them.
            steps: K, how many steps will be taken.
            begin: the inner step from which a pullback will be asked for.
        """
        self._graphs.keep_few(iterates, steps=steps, begin=begin)

    def hold(self, time: int) -> None:
        """Where few iterates are kept, keep the last one, at inner step ``time``, and the one before it.

        Those that were held before are let go. What draws random numbers between the lower loop and the pullback then
        draws the same ones, since no step is taken again in between.
        """
        self._graphs.hold(time)

    def size_of_step(self, objective: OfEachStep | None = None) -> StepSize:
        """Build the first step on trial, and see how much memory it takes.

        Args:
            objective: phi of that step; see :meth:`advance`. None where it has been taken already.
        """
        leaves = self._leaves(0)
        gc.collect()  # else what Python lets go of meanwhile would be taken off
        before = free_memory.held()
        if objective is not None:
            self._objectives.append(objective)
        try:
            with functional.preserved(self._buffers):
                outputs = self._rebuilt(0, leaves)
                jt.sync([*outputs, *self._buffers])
                graph = free_memory.held() - before
        finally:
            if objective is not None:
                self._objectives.clear()
        return StepSize(graph, sum(v.nbytes for v in [*leaves, *self._buffers]))

    def losses(self) -> list[float]:
        """The objective before each step, evaluated once more."""
        values = []
        for step, objective in enumerate(self._objectives):
            parameters = self.parameters(step)
            if self._reseed:
                self._reseed(step)
            with on_trial():
                values.append(float(self.evaluate(_of(objective, step), parameters).item()))
        return values

    def _built(self, step: int, objective: StepObjective, inputs: list[jt.Var]) -> tuple[jt.Var, list[jt.Var]]:
        """Phi, and the parameters and the optimizer's state after the step, as functions of those before."""
        parameters, state = inputs[: len(self._variables)], self._state(step, inputs)
        loss = self._at(parameters, objective)
        gradients = autodiff.grad(loss, parameters)
        moved, new_state = self._moved(parameters, gradients, state)
        return loss, [*moved, *new_state.flat()]

    def _moved(
        self,
        parameters: Sequence[jt.Var],
        gradients: Sequence[jt.Var],
        state: OptimizerState,
        *,
        settled: bool = False,
    ) -> tuple[list[jt.Var], OptimizerState]:
        learned = None if self._learned is None else self._learned.values()
        moved, new_state = self._rule.update(
            parameters, gradients, state, self._hyperparameters, learned=learned, settled=settled
        )
        if self._projection is not None:
            moved = applied(self._projection, moved, "ll_projection")
        return moved, new_state

    def _rebuilt(self, step: int, leaves: list[jt.Var]) -> list[jt.Var]:
        if self._reseed:
            self._reseed(step)
        with on_trial():
            return self._built(step, _of(self._objectives[step], step), leaves)[1]

    def _state(self, step: int, leaves: list[jt.Var]) -> OptimizerState:
        return self._start.with_slots(leaves[len(self._variables) :], self._start.step + step)

    def step_from(
        self, step: int, gradients: Sequence[jt.Var], *, settled: bool = False
    ) -> tuple[list[jt.Var], list[jt.Var]]:
        """The step that was taken from an iterate, as a function of that iterate and of the gradient there.

        The optimizer's state before it is a constant, unless the loop is taken to have settled.

        Args:
            step: the inner step, from 0.
            gradients: the gradient of phi, as the optimizer was given it; one leaf Var per variable.
            settled: whether the state follows the two, as where steps lead back to the same point.

        Returns:
            The next iterate with its graph, and the iterate that it starts from, leaves.
        """
        leaves = self._leaves(step)
        parameters = leaves[: len(self._variables)]
        moved, _ = self._moved(parameters, gradients, self._state(step, leaves), settled=settled)
        return moved, parameters

    @property
    def holds_state(self) -> bool:
        """Whether the lower optimizer has a state that is held where a loop has settled."""
        return self._rule.holds_state

    @property
    def projection(self) -> Projection | None:
        """What every step ends with, besides the optimizer's own."""
        return self._projection

    @property
    def steps_depend_on_x(self) -> bool:
        """Whether a step may depend on x by more than the gradient of phi."""
        return self._projection is not None or self._learned is not None

    def unprojected(self, step: int) -> list[jt.Var]:
        """Where the step from an iterate led before it was projected, computed once more."""
        leaves = self._leaves(step)
        with functional.preserved(self._buffers):
            return self._view(_projection=None)._rebuilt(step, leaves)[: len(self._variables)]

    def pullback(
        self, cotangent: Sequence[jt.Var], wrt: Sequence[jt.Var], *, start: int | None = None, by_start: bool = True
    ) -> tuple[list[jt.Var], list[jt.Var]]:
        """The reverse-mode derivative of the last iterate in use.

        Args:
            cotangent: one Var per lower-level variable.
            wrt: Vars that the objectives of the steps depend on.
            start: the inner step whose iterate counts as the start; by default :attr:`first`. Steps before
                :attr:`first` add nothing to the product with ``wrt``.
            by_start: whether the second product is wanted, which costs a Hessian-vector product of step ``start``.

        Returns:
            The product of ``cotangent`` with the Jacobian of the last iterate by ``wrt``, and with the Jacobian by the
            iterate at ``start``, an empty list unless it is wanted.
        """
        start = self.first if start is None else start
        totals = [jt.zeros_like(v) for v in wrt]
        if self._constant_gradients:
            return totals, functional.detached(cotangent) if by_start else []
        slots = [jt.zeros_like(slot) for slot in self._start.flat()]
        adjoint = [*functional.cut(cotangent, together_with=[*totals, *slots]), *slots]
        through, end = by_start, self.last
        later = LaterSums(wrt)
        graphs = self._graphs.backwards(start, end, tracked_from=self.first, rebuild=self._rebuilt)
        for step, leaves, outputs in graphs:
            # after other joined steps, one more product compiles nothing, where leaving it out takes kernels
            through, end = through or (step > start and end - step > 1), step
            tracked = list(wrt) if step >= self.first else []
            inputs = leaves if through or step > start else []
            with later if precision.loss_scale() is None else nullcontext():  # what waits would stay scaled
                products = autodiff.vjp(outputs, [*tracked, *inputs], adjoint)
            if tracked:
                totals, adjoint, kept = functional.cut_lists(
                    functional.axpy(1.0, products[: len(tracked)], totals), products[len(tracked) :], later.pending()
                )
                later.cut(kept)
            else:
                adjoint = functional.cut(products)
        return later.added_to(totals), adjoint[: len(self._variables)] if by_start else []


def _of(objective: StepObjective | OfEachStep, step: int) -> StepObjective:
    return objective.at(step) if isinstance(objective, OfEachStep) else objective

"""The lower-level iterates y_0..y_K and their reverse-mode derivative.

The graph is cut at every inner step: an iterate is a leaf, and a step's graph reaches from one leaf to the next
iterate. Going backwards, each step is pulled back by itself. Every step, whatever K is, then runs the same compiled
kernels, and a step whose graph was not kept is rebuilt from its iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import copy
from typing import Any, NamedTuple

from jboat import autodiff, functional
from jboat.optim import OptimizerState, UpdateRule
import jittor as jt

StepObjective = Callable[["Trajectory"], jt.Var]


class _StepGraph(NamedTuple):
    """One lower step: leaves in, functions of the leaves out."""

    inputs: list[jt.Var]
    outputs: list[jt.Var]


class Trajectory:
    """The iterates of one lower-level run; the ``auxiliary_model`` of every operator.

    Calling it runs the module at its last iterate. Attributes it does not have itself are the module's.

    Args:
        module: the lower-level model. Its parameters are substituted while it runs, and come back unchanged.
        variables: the Vars that the lower level optimizes.
        optimizer: the lower-level optimizer, which holds them; its differentiable rule takes the steps.
        initial: y_0, one Var per variable; by default the variables' present values.
        state: the optimizer's state before the first step; by default that of a fresh optimizer.
        remat_every: how many steps are rebuilt at once where graphs were not kept.
        reseed: called with the inner step before it is built, so that a rebuilt step draws the same random numbers.
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
    ) -> None:
        self._module = module
        self._variables = list(variables)
        self._buffers = functional.buffers(module)
        self._rule = UpdateRule(optimizer, variables)
        self._hyperparameters = self._rule.hyperparameters()
        self._remat_every = remat_every
        self._reseed = reseed
        start = functional.detached(initial if initial is not None else variables)
        jt.sync(start)
        self._iterates = [start]
        self._states = [state if state is not None else self._rule.fresh_state(start)]
        self._objectives: list[StepObjective] = []
        self._graphs: list[_StepGraph | None] = []
        self._held: list[list[jt.Var]] = []  # what the module holds now, innermost last; shared with every view
        self._first = 0
        self._last: int | None = None
        self._constant_gradients = False

    def __call__(self, *args: Any, params: Sequence[jt.Var] | None = None, **kwargs: Any) -> Any:
        """Run the module with ``params``; by default at the last iterate or, in an objective, with what it holds."""
        if params is None and self._held:
            return self._module(*args, **kwargs)
        with self.substituted(params):
            result = self._module(*args, **kwargs)
            if any(result is v for v in self._variables):  # the variable itself, which is about to change back
                result = functional.alias(result)
        return result

    def __getattr__(self, name: str) -> Any:
        """Attributes of the module."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._module, name)

    def __len__(self) -> int:
        """The number of steps taken."""
        return len(self._iterates) - 1

    @property
    def last(self) -> int:
        """The inner step of the last iterate in use: K, or less after :meth:`until`."""
        return len(self) if self._last is None else self._last

    @property
    def first(self) -> int:
        """The inner step from which derivatives are tracked: 0, or more after :meth:`since`."""
        return self._first

    @property
    def constant_gradients(self) -> bool:
        """Whether inner gradients count as constants, so that the last iterate moves one to one with the first."""
        return self._constant_gradients

    @property
    def variables(self) -> list[jt.Var]:
        """The module's Vars that the lower level optimizes."""
        return list(self._variables)

    @property
    def learning_rates(self) -> list[float]:
        """The lower-level learning rate of each variable."""
        return [float(h["lr"]) for h in self._hyperparameters]

    @property
    def optimizer_state(self) -> OptimizerState:
        """The lower-level optimizer's state after the last step taken."""
        return self._states[-1]

    def parameters(self, time: int = -1) -> list[jt.Var]:
        """The iterate at inner step ``time``.

        Args:
            time: 0 to K, or -1 for the last iterate in use; inside an objective -1 is what the module holds.

        Returns:
            One leaf Var per lower-level variable.

        Raises:
            ValueError: if there is no such iterate.
        """
        if time == -1 and self._held:
            return list(self._held[-1])
        if time == -1:
            time = self.last
        if not 0 <= time < len(self._iterates):
            raise ValueError(f"time must lie in 0..{len(self)} or be -1, got {time}")
        return list(self._iterates[time])

    def until(self, time: int) -> Trajectory:
        """The same trajectory ending at inner step ``time``."""
        self.parameters(time)
        return self._view(_last=time)

    def since(self, time: int) -> Trajectory:
        """The same trajectory with the iterate at inner step ``time`` a constant."""
        self.parameters(time)
        return self._view(_first=time)

    def with_constant_gradients(self) -> Trajectory:
        """The same trajectory with every inner gradient a constant."""
        return self._view(_constant_gradients=True)

    def _view(self, **changes: Any) -> Trajectory:
        view = copy.copy(self)
        view.__dict__.update(changes)
        return view

    @contextmanager
    def substituted(self, parameters: Sequence[jt.Var] | None = None) -> Iterator[None]:
        """Let the module hold ``parameters``, by default the last iterate, inside the block."""
        values = self.parameters() if parameters is None else list(parameters)
        with functional.substituted(self._variables, values):
            self._held.append(values)
            try:
                yield
            finally:
                self._held.pop()

    def evaluate(self, objective: Callable[[Trajectory], jt.Var], parameters: Sequence[jt.Var] | None = None) -> jt.Var:
        """``objective(self)`` with the module holding ``parameters``; running statistics stay as they are."""
        with functional.preserved(self._buffers), self.substituted(parameters):
            return objective(self)

    def advance(self, objective: StepObjective, *, keep_graph: bool) -> jt.Var:
        """Take one lower step.

        Args:
            objective: phi of this step, called with the trajectory; differentiated by the last iterate.
            keep_graph: whether to keep the step's graph. If not, a pullback rebuilds it.

        Returns:
            phi before the step, a scalar Var.
        """
        step = len(self)
        if self._reseed:
            self._reseed(step)
        graph, loss = self._build(step, objective)
        jt.sync([*graph.outputs, loss, *self._buffers])
        count = len(self._variables)
        values = functional.detached(graph.outputs)
        self._iterates.append(values[:count])
        self._states.append(self._state(step + 1, values[count:]))
        self._objectives.append(objective)
        self._graphs.append(graph if keep_graph else None)
        return loss.detach()

    def _build(self, step: int, objective: StepObjective) -> tuple[_StepGraph, jt.Var]:
        parameters, state = self._iterates[step], self._states[step]
        with self.substituted(parameters):
            loss = objective(self if step == self.last else self.until(step))
        gradients = autodiff.grad(loss, parameters)
        moved, new_state = self._rule.update(parameters, gradients, state, self._hyperparameters)
        inputs = [*parameters, *(slot for slots in state.slots for slot in slots)]
        outputs = [*moved, *(slot for slots in new_state.slots for slot in slots)]
        return _StepGraph(inputs, outputs), loss

    def _state(self, step: int, flat: list[jt.Var]) -> OptimizerState:
        remaining = iter(flat)
        before = self._states[0]
        slots = tuple(tuple(next(remaining) for _ in slots) for slots in before.slots)
        return OptimizerState(before.step + step, slots)

    def _graph(self, step: int) -> _StepGraph:
        graph = self._graphs[step]
        if graph is None:
            if self._reseed:
                self._reseed(step)
            with functional.preserved(self._buffers):
                graph, _ = self._build(step, self._objectives[step])
            jt.sync(graph.outputs)
        return graph

    def pullback(
        self, cotangent: Sequence[jt.Var], wrt: Sequence[jt.Var], *, start: int | None = None
    ) -> tuple[list[jt.Var], list[jt.Var]]:
        """The reverse-mode derivative of the last iterate in use.

        Args:
            cotangent: one Var per lower-level variable.
            wrt: Vars that the objectives of the steps depend on.
            start: the inner step whose iterate counts as the start; by default :attr:`first`. Steps before
                :attr:`first` add nothing to the product with ``wrt``.

        Returns:
            The product of ``cotangent`` with the Jacobian of the last iterate by ``wrt``, and with the Jacobian by the
            iterate at ``start``.
        """
        start = self.first if start is None else start
        totals = [jt.zeros_like(v) for v in wrt]
        adjoint = functional.detached(cotangent)
        if self._constant_gradients:
            return totals, adjoint
        slots = [slot for slots in self._states[0].slots for slot in slots]
        adjoint += [jt.zeros_like(slot) for slot in slots]
        jt.sync([*totals, *adjoint])
        for chunk_end in range(self.last, start, -self._remat_every):
            chunk_start = max(start, chunk_end - self._remat_every)
            graphs = [self._graph(step) for step in range(chunk_start, chunk_end)]
            for step in range(chunk_end - 1, chunk_start - 1, -1):
                graph = graphs.pop()
                tracked = list(wrt) if step >= self.first else []
                products = autodiff.vjp(graph.outputs, [*tracked, *graph.inputs], adjoint)
                if tracked:
                    totals = functional.detached(functional.axpy(1.0, products[: len(tracked)], totals))
                adjoint = functional.detached(products[len(tracked) :])
                jt.sync([*totals, *adjoint])
        return totals, adjoint[: len(self._variables)]

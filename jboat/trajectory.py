"""The lower-level iterates y_0..y_K and their reverse-mode derivative.

The graph is cut between inner steps: a graph reaches from one iterate, a leaf, to the next one or, where steps are
joined, to the tenth next. Going backwards, each graph is pulled back by itself. All of them, whatever K is, then run
the same compiled kernels, and a step whose graph was not kept is rebuilt from its iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
import copy
from typing import Any, NamedTuple

from jboat import autodiff, functional, replaced_functions
from jboat.optim import OptimizerState, UpdateRule
import jittor as jt

StepObjective = Callable[["Trajectory"], jt.Var]


_RANDOM = (jt, "random")
replaced_functions.originals(_RANDOM)

JOINED_STEPS = 10
"""How many steps share a graph. More save little time and make more kernels where K is no multiple of them."""

MOST_VARIABLES_TO_JOIN = 4
"""Steps of a model with more variables are worth more than what a cut costs, and joined they make more kernels."""

MOST_NUMBERS_TO_JOIN = 100_000
"""Steps of a model with more numbers in all variables together take more memory joined, and no less time."""


class _Graph(NamedTuple):
    """Some lower steps: leaves in, functions of the leaves out."""

    inputs: list[jt.Var]
    outputs: list[jt.Var]


class _Kept(NamedTuple):
    """The graph that leads to an iterate: where it starts, and the iterate and optimizer state with their history."""

    start: int
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
        self._kept: list[_Kept | None] = []  # one a step
        self._unsettled = 0  # steps
        self._unsettled_losses: list[jt.Var] = []
        self._small = is_small(start) and not _flat(self._states[0])
        self._draws_random_numbers = False
        self.upper_statistics: dict[str, list[jt.Var]] = {}
        self.lower_objective: Callable[..., jt.Var] | None = None
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
    def module(self) -> jt.Module:
        """The lower-level model itself, which holds an iterate while :meth:`substituted` lasts."""
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

    def advance(
        self, objective: StepObjective, *, keep_graph: bool, join: bool = False, with_loss: bool = False
    ) -> jt.Var | None:
        """Take one lower step.

        Args:
            objective: phi of this step, called with the trajectory; differentiated by the last iterate.
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
        kept = self._kept[-1] if self._unsettled else None
        inputs = kept.outputs if kept else self._leaves(step)
        graph, loss = self._build(step, objective, inputs, with_loss=with_loss)
        count = len(self._variables)
        values = functional.detached(graph.outputs)
        self._iterates.append(values[:count])
        self._states.append(self._state(step + 1, values[count:]))
        self._objectives.append(objective)
        start = kept.start if kept else step
        self._kept.append(_Kept(start, graph.outputs) if keep_graph else None)
        self._unsettled += 1
        if loss is not None:
            self._unsettled_losses.append(loss)
        if not (join and self._small) or self._draws_random_numbers or self._unsettled == JOINED_STEPS:
            self.settle()
        return None if loss is None else loss.detach()

    def settle(self) -> None:
        """Compute the steps that were taken and not computed yet."""
        if self._unsettled:
            state = self._states[-1]
            jt.sync([*self._iterates[-1], *_flat(state), *self._unsettled_losses, *self._buffers])
            self._unsettled, self._unsettled_losses = 0, []

    def losses(self) -> list[float]:
        """The objective before each step, evaluated once more."""
        values = []
        for step, objective in enumerate(self._objectives):
            if self._reseed:
                self._reseed(step)
            values.append(float(self.until(step).evaluate(objective, self._iterates[step]).item()))
        return values

    def _leaves(self, step: int) -> list[jt.Var]:
        return [*self._iterates[step], *_flat(self._states[step])]

    def _build(
        self, step: int, objective: StepObjective, inputs: list[jt.Var], *, with_loss: bool = False
    ) -> tuple[_Graph, jt.Var | None]:
        # A loss that is held is computed with the rest.
        count = len(self._variables)
        parameters, state = inputs[:count], self._state(step, inputs[count:])
        with self.substituted(parameters), self._watching_random_numbers() if step == 0 else nullcontext():
            loss = objective(self if step == self.last else self.until(step))
        gradients = autodiff.grad(loss, parameters)
        moved, new_state = self._rule.update(parameters, gradients, state, self._hyperparameters)
        return _Graph(inputs, [*moved, *_flat(new_state)]), loss if with_loss else None

    @contextmanager
    def _watching_random_numbers(self) -> Iterator[None]:
        """Note whether the block draws random numbers, which happens when a graph is computed, not when it is built."""
        draw = replaced_functions.current(*_RANDOM)

        def noted(*args: Any, **kwargs: Any) -> jt.Var:
            self._draws_random_numbers = True
            return draw(*args, **kwargs)

        self._draws_random_numbers = not replaced_functions.is_replaceable(*_RANDOM)  # then nobody knows
        with replaced_functions.replaced({_RANDOM: noted}):
            yield

    def _state(self, step: int, flat: list[jt.Var]) -> OptimizerState:
        remaining = iter(flat)
        before = self._states[0]
        slots = tuple(tuple(next(remaining) for _ in slots) for slots in before.slots)
        return OptimizerState(before.step + step, slots)

    def _rebuilt(self, step: int) -> _Graph:
        if self._reseed:
            self._reseed(step)
        with functional.preserved(self._buffers):
            graph, _ = self._build(step, self._objectives[step], self._leaves(step))
        jt.sync(graph.outputs)
        return graph

    def _graphs(self, start: int) -> Iterator[tuple[int, _Graph]]:
        """From the last iterate in use back to ``start``: the step where each graph starts, and the graph."""
        end = self.last
        while end > start:
            kept = self._kept[end - 1]
            if kept and kept.start >= start and not kept.start < self.first < end:
                yield kept.start, _Graph(self._leaves(kept.start), kept.outputs)
                end = kept.start
                continue
            chunk_start = end - 1 if kept else max(start, end - self._remat_every)
            graphs = [self._rebuilt(step) for step in range(chunk_start, end)]
            for step in range(end - 1, chunk_start - 1, -1):
                yield step, graphs.pop()
            end = chunk_start

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
        adjoint = functional.detached(cotangent)
        if self._constant_gradients:
            return totals, adjoint if by_start else []
        adjoint += [jt.zeros_like(slot) for slot in _flat(self._states[0])]
        jt.sync([*totals, *adjoint])
        through, end = by_start, self.last
        for step, graph in self._graphs(start):
            # after other joined steps, one more product compiles nothing, where leaving it out takes kernels
            through, end = through or (step > start and end - step > 1), step
            tracked = list(wrt) if step >= self.first else []
            inputs = graph.inputs if through or step > start else []
            products = autodiff.vjp(graph.outputs, [*tracked, *inputs], adjoint)
            if tracked:
                totals = functional.detached(functional.axpy(1.0, products[: len(tracked)], totals))
            adjoint = functional.detached(products[len(tracked) :])
            jt.sync([*totals, *adjoint])
        return totals, adjoint[: len(self._variables)] if by_start else []


def is_small(variables: Sequence[jt.Var]) -> bool:
    """Whether steps of these variables are worth joining."""
    numbers = sum(v.numel() for v in variables)
    return len(variables) <= MOST_VARIABLES_TO_JOIN and numbers <= MOST_NUMBERS_TO_JOIN


def _flat(state: OptimizerState) -> list[jt.Var]:
    return [slot for slots in state.slots for slot in slots]

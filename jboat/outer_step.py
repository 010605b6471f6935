"""What an outer step yields before anything of it is moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jboat import functional
from jboat.optim import OptimizerState
import jittor as jt


@dataclass
class OuterStep:
    """The direction of x and what was found on the way; nothing has been moved yet.

    Attributes:
        gradients: the hypergradient, or the direction of x in methods that have another one, along which the upper
            optimizer moves: one Var per entry of ``ul_var``; callbacks may replace them before the upper step.
        upper_loss: F at the iterate that the method used.
        lower_loss: phi of the last lower step, before that step.
        ll_init_gradient: with DI, dF/dy_0, one Var per entry of ``ll_var``; otherwise None.
        diagnostics: numbers by name: PTT's index, the solver's iterations and residual, GDA's weight.
        ll_losses: phi before each lower step, where a callback wants it; otherwise empty.
        ll_parameters: y after the step, y_K where there is a lower loop: one Var per entry of ``ll_var``.
        upper_loss_at: the y of ``upper_loss``, one Var per entry of ``ll_var``: those themselves where F was measured
            before y moves; empty where it is ``ll_parameters``.
        ll_state: the lower optimizer's state after the step.
        auxiliary: what a method keeps for its next step, by name.
        value: what ``gradients`` are the derivative of, with its graph, at the x that ``ul_var`` holds when it is
            called and with everything else, such as y, held as it was in this step. None in methods that do not tell
            and in chains, which differentiate ``F(x, y_K(x))`` or approximate that.
        unclipped: what ``gradients`` were before they were clipped; None where they were not.
        ul_learning_rate: the upper optimizer's learning rate for this step alone; None for its own.
        failure: what is not finite, found in the lower loop; stops the run before the upper step.
        skip: whether the step is to be left out: no variable moves, and nothing need be finite.
    """

    gradients: list[jt.Var]
    upper_loss: float
    lower_loss: float
    ll_init_gradient: list[jt.Var] | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    ll_losses: list[float] = field(default_factory=list)
    ll_parameters: list[jt.Var] = field(default_factory=list)
    upper_loss_at: list[jt.Var] = field(default_factory=list)
    ll_state: OptimizerState | None = None
    auxiliary: dict[str, list[jt.Var]] = field(default_factory=dict)
    unclipped: list[jt.Var] | None = None
    ul_learning_rate: float | None = None
    failure: ArithmeticError | None = None
    skip: bool = False
    value: Callable[[], jt.Var] | None = field(default=None, repr=False)
    _norm: tuple[tuple[int, ...], float] = field(default=((), 0.0), init=False, repr=False)

    @property
    def norm(self) -> float:
        """The Euclidean norm of all gradients together; fetched once for the same gradients."""
        nodes = tuple(g.id for g in self.gradients)
        if nodes != self._norm[0]:
            self._norm = nodes, functional.norm(self.gradients)
        return self._norm[1]


def mean(steps: Sequence[OuterStep], counts: Sequence[int] | None = None) -> OuterStep:
    """The average of several, left out if one of them is; iterates and optimizer state are the last one's.

    Args:
        steps: what is averaged.
        counts: how many times each counts; by default once.
    """
    if len(steps) == 1:
        return steps[0]
    counts = [1] * len(steps) if counts is None else counts
    last, n = steps[-1], sum(counts)

    def weighted(values: Sequence[float]) -> float:
        return sum(count * value for count, value in zip(counts, values, strict=True)) / n

    def averaged(lists: Sequence[list[jt.Var]]) -> list[jt.Var]:
        total = lists[0] if counts[0] == 1 else functional.times(counts[0], lists[0])
        for count, other in zip(counts[1:], lists[1:], strict=True):
            total = functional.cut(functional.axpy(float(count), other, total))
        return functional.cut([v / n for v in total])

    initial = [s.ll_init_gradient for s in steps if s.ll_init_gradient is not None]
    values = [s.value for s in steps if s.value is not None]

    def value() -> jt.Var:
        return sum(count * v() for count, v in zip(counts, values, strict=True)) / n

    return OuterStep(
        gradients=averaged([s.gradients for s in steps]),
        upper_loss=weighted([s.upper_loss for s in steps]),
        lower_loss=weighted([s.lower_loss for s in steps]),
        ll_init_gradient=averaged(initial) if initial else None,
        diagnostics={name: weighted([s.diagnostics[name] for s in steps]) for name in last.diagnostics},
        ll_losses=last.ll_losses,
        ll_parameters=last.ll_parameters,
        upper_loss_at=last.upper_loss_at,
        ll_state=last.ll_state,
        auxiliary=last.auxiliary,
        ul_learning_rate=last.ul_learning_rate,
        failure=next((s.failure for s in steps if s.failure is not None), None),
        skip=any(s.skip for s in steps),
        value=value if len(values) == len(steps) else None,
    )

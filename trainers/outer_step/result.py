"""What one run of both chains yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jboat import functional
from jboat.optim import OptimizerState
from jboat.trainers.errors import NonFiniteError
import jittor as jt


@dataclass
class HyperGradientResult:
    """The hypergradient and what was found on the way.

    Attributes:
        gradients: one Var per entry of ``ul_var``; callbacks may replace them before the upper step.
        upper_loss: F at the iterate that the chain used.
        upper_loss_at: y there, one Var per entry of ``ll_var``: those themselves where F was measured before y moves;
            empty where it is ``ll_parameters``.
        lower_loss: phi of the last lower step, before that step.
        ll_init_gradient: with DI, dF/dy_0, one Var per entry of ``ll_var``; otherwise None.
        diagnostics: numbers by name: PTT's index, the solver's iterations and residual, GDA's weight.
        ll_losses: phi before each lower step, where a callback wants it; otherwise empty.
        ll_parameters: y_K, one Var per entry of ``ll_var``.
        ll_state: the lower optimizer's state after K steps.
        auxiliary: what a first-order method keeps for its next step.
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
    failure: NonFiniteError | None = None
    skip: bool = False
    _norm: tuple[tuple[int, ...], float] = field(default=((), 0.0), init=False, repr=False)

    @property
    def norm(self) -> float:
        """The Euclidean norm of all gradients together; fetched once for the same gradients."""
        nodes = tuple(g.id for g in self.gradients)
        if nodes != self._norm[0]:
            self._norm = nodes, functional.norm(self.gradients)
        return self._norm[1]


def mean(results: Sequence[HyperGradientResult]) -> HyperGradientResult:
    """The average of several results; iterates and optimizer state are the last one's."""
    if len(results) == 1:
        return results[0]
    last, n = results[-1], len(results)

    def averaged(lists: Sequence[list[jt.Var]]) -> list[jt.Var]:
        total = lists[0]
        for other in lists[1:]:
            total = functional.cut(functional.axpy(1.0, other, total))
        return functional.cut([v / n for v in total])

    initial = [r.ll_init_gradient for r in results if r.ll_init_gradient is not None]
    return HyperGradientResult(
        gradients=averaged([r.gradients for r in results]),
        upper_loss=sum(r.upper_loss for r in results) / n,
        lower_loss=sum(r.lower_loss for r in results) / n,
        ll_init_gradient=averaged(initial) if initial else None,
        diagnostics={name: sum(r.diagnostics[name] for r in results) / n for name in last.diagnostics},
        ll_losses=last.ll_losses,
        ll_parameters=last.ll_parameters,
        upper_loss_at=last.upper_loss_at,
        ll_state=last.ll_state,
        auxiliary=last.auxiliary,
        ul_learning_rate=last.ul_learning_rate,
        failure=next((r.failure for r in results if r.failure is not None), None),
    )

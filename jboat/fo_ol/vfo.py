"""VFO: the value-function method BOME."""

from __future__ import annotations

from dataclasses import dataclass
import math

from jboat import functional
from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.optim import OptimizerState
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class VFOOptions:
    """Options of VFO.

    Attributes:
        y_hat_lr: step size of the gradient steps from y to y_hat, positive.
        u1: how fast the constraint q <= 0 is pursued, positive.
    """

    y_hat_lr: float = 0.1
    u1: float = 0.5

    def __post_init__(self) -> None:
        for name in ("y_hat_lr", "u1"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"solver_config['VFO'][{name!r}] must be positive, got {getattr(self, name)}")


@register_operator(
    "fo", options=VFOOptions, cost="lower_iters + 1 lower gradients, one upper gradient; memory of one step"
)
class VFO(FirstOrder):
    """Dynamic barrier descent on ``q(x, y) = f(x, y) - f(x, y_hat) <= 0``.

    y_hat is ``lower_iters`` gradient steps away from y. Both x and y move along ``grad F + w grad q`` with
    ``w = max(0, u1 q - <grad F, grad q>) / (||grad q||^2 + 1e-8)``, inner product and norm over x and y together, and
    y_hat a constant.

    Its fixed point is biased where ``lower_iters`` steps from y do not reach the lower solution: q is then smaller than
    ``f(x, y) - min f``, ``grad_x f(x, y_hat)`` is not the gradient of ``min f``, and y may stay off the solution,
    towards smaller F. ``lower_gradient_norm`` shows by how much; more steps and a larger ``u1`` lessen it.

    Source: Liu, Ye, Wright, Stone and Liu, "BOME! Bilevel optimization made easy: a simple first-order approach",
    NeurIPS 2022.
    """

    keeps = ()
    zero_because = "VFO moves x only where its constraint is violated"

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        options = self.options
        y = self.start()
        upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y)
        here, there, gap = self.value_gap(y, ll_feed_dict, lr=options.y_hat_lr)
        q = here.value - there.value
        q_by_x = functional.axpy(-1.0, there.by_x, here.by_x)
        grad_f, grad_q = [*upper.by_x, *upper.by_y], [*q_by_x, *here.by_y]
        slope = options.u1 * q - functional.dot(grad_f, grad_q)
        squares = functional.dot(grad_q, grad_q)
        weight = slope.maximum(0.0 * slope) / (squares + 1e-8)

        def step(w: jt.Var | float) -> tuple[list[jt.Var], list[jt.Var], OptimizerState]:
            moves = functional.axpy(w, grad_q, grad_f)
            by_x = functional.detached(moves[: len(self.ul_var)])
            others = [*by_x, upper.loss, here.loss, q, weight, squares]
            return by_x, *self.lower_step(y, moves[len(self.ul_var) :], together_with=others)

        by_x, y_new, state = step(weight)
        barrier = float(weight.item())
        if not math.isfinite(squares.item()):
            barrier = _weight(options.u1 * q.item(), grad_f, grad_q)
            by_x, y_new, state = step(barrier)
        return FirstOrderStep(
            gradients=by_x,
            ll_parameters=y_new,
            ll_state=state,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(here.loss.item()),
            diagnostics={"vfo_gap": float(q.item()), "vfo_weight": barrier},
            value=lambda: self.upper_value(y, ul_feed_dict) + barrier * gap(),
        )


def _weight(pursuit: float, grad_f: list[jt.Var], grad_q: list[jt.Var]) -> float:
    """The weight of grad q where the square of its norm is beyond float32; NaN stays NaN."""
    size = functional.norm(grad_q)
    if not math.isfinite(size):
        return math.nan
    slope = pursuit - size * functional.dot(grad_f, functional.times(1.0 / size, grad_q)).item()
    return 0.0 if slope <= 0.0 else slope / size / size

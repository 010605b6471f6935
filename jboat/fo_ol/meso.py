"""MESO: the Moreau-envelope method MEHA."""

from __future__ import annotations

from dataclasses import dataclass

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class MESOOptions:
    """Options of MESO.

    Attributes:
        eta: step size of theta, positive.
        gamma_1: weight of the proximal term, positive: the inverse of the Moreau envelope's parameter.
        c0: scale of the penalty ``c_k = c0 (k + 1)^0.25``, positive.
    """

    eta: float = 0.1
    gamma_1: float = 1.0
    c0: float = 5.0

    def __post_init__(self) -> None:
        for name in ("eta", "gamma_1", "c0"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"solver_config['MESO'][{name!r}] must be positive, got {getattr(self, name)}")


@register_operator(
    "fo", options=MESOOptions, cost="two lower gradients by y and two by x, an upper one by each; memory of one step"
)
class MESO(FirstOrder):
    """Single-loop descent on ``F / c_k + f - v``, v the Moreau envelope of f in y.

    One outer step k moves ``theta -= eta (grad_y f(x, theta) + gamma_1 (theta - y))``; then y along
    ``grad_y F / c_k + grad_y f(x, y) - gamma_1 (y - theta)``; then x along
    ``grad_x F / c_k + grad_x f(x, y) - grad_x f(x, theta)`` at the new y and theta. theta starts at y.

    Its fixed point is biased by the penalty: with a c_k that stood still, y would lie off the lower solution, towards
    smaller F, by a distance of order 1 / c_k, and c_k grows slowly, sixfold in a thousand steps.

    Source: Liu, Liu, Yao, Zeng and Zhang, "Moreau envelope for nonconvex bi-level optimization: a single-loop and
    Hessian-free solution strategy", ICML 2024.
    """

    keeps = ("theta",)

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        options = self.options
        scale = 1.0 / (options.c0 * (current_iter + 1) ** 0.25)
        y = self.start()
        theta = functional.detached(auxiliary["theta"] if auxiliary else y)
        by_theta = autodiff.grad(self.lower_value(theta, ll_feed_dict), theta)
        pull = functional.axpy(-1.0, y, theta)
        direction = functional.axpy(options.gamma_1, pull, by_theta)
        theta = functional.cut(self.projected(functional.axpy(-options.eta, direction, theta)))

        upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y, by_x=False)
        lower = self.lower_gradients(y, ll_feed_dict, by_x=False)
        push = functional.axpy(-1.0, theta, y)
        by_y = functional.axpy(-options.gamma_1, push, functional.axpy(scale, upper.by_y, lower.by_y))
        y_new, state = self.lower_step(y, by_y, together_with=[upper.loss, lower.loss])

        def value() -> jt.Var:
            gap = self.lower_value(y_new, ll_feed_dict) - self.lower_value(theta, ll_feed_dict)
            return scale * self.upper_value(y_new, ul_feed_dict) + gap

        # only gradients are taken at the new y, since the losses themselves may need more than these do
        upper_by_x = autodiff.grad(self.upper_value(y_new, ul_feed_dict), self.ul_var)
        lower_by_x = autodiff.grad(self.lower_value(y_new, ll_feed_dict), self.ul_var)
        at_theta = autodiff.grad(self.lower_value(theta, ll_feed_dict), self.ul_var)
        by_x = functional.axpy(-1.0, at_theta, functional.axpy(scale, upper_by_x, lower_by_x))
        return FirstOrderStep(
            gradients=functional.detached(by_x),
            ll_parameters=y_new,
            ll_state=state,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(lower.loss.item()),
            auxiliary={"theta": theta},
            diagnostics={"meso_penalty": 1.0 / scale},
            value=value,
        )

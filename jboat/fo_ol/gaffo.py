"""GAFFO: descent on the regularised gap function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class GAFFOOptions:
    """Options of GAFFO.

    Attributes:
        eta: step size of theta, positive.
        gamma: the gap function's regularisation parameter, positive: theta may stray from y the more the larger it is.
        c0: scale of the penalty ``c_k = c0 (k + 1)^p``, positive.
        p: exponent of the penalty, at least 0 and less than 1/2.
        y_min: lower bound of every entry of y; None for none.
        y_max: upper bound of every entry of y; None for none.
    """

    eta: float = 0.1
    gamma: float = 1.0
    c0: float = 5.0
    p: float = 0.3
    y_min: float | None = None
    y_max: float | None = None

    def __post_init__(self) -> None:
        for name in ("eta", "gamma", "c0"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"solver_config['GAFFO'][{name!r}] must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.p < 0.5:
            raise ValueError(f"solver_config['GAFFO']['p'] must lie in [0, 0.5), got {self.p}")
        if self.y_min is not None and self.y_max is not None and not self.y_min < self.y_max:
            raise ValueError(f"solver_config['GAFFO']['y_max'] must be above y_min = {self.y_min}, got {self.y_max}")


@register_operator(
    "fo", options=GAFFOOptions, cost="two lower gradients by y and two by x, one upper gradient; memory of one step"
)
class GAFFO(FirstOrder):
    """Single-loop descent on ``F / c_k + G``, G the regularised gap function of the lower problem over a box Y.

    The paper's gap function is doubly regularised: for a lower problem ``min f(x, y)`` over ``y in Y, g(x, y) <= 0``
    it is the largest ``f(x, y) + lambda g(x, y) - (lambda - z)^2 / (2 gamma_2)`` over ``lambda >= 0`` minus the least
    ``f(x, theta) + z g(x, theta) + ||theta - y||^2 / (2 gamma)`` over theta in Y. What is implemented is the form
    without functional constraints g, in which lambda and z vanish:
    ``G(x, y) = f(x, y) - min over theta in Y of f(x, theta) + ||theta - y||^2 / (2 gamma)``, with Y the box
    ``[y_min, y_max]`` or, by default, everything; it is nowhere negative and zero where y is a lower-level solution.

    One outer step k moves ``theta -= eta (grad_y f(x, theta) + (theta - y) / gamma)``, then y along
    ``grad_y F / c_k + grad_y f(x, y) - (y - theta) / gamma`` and x along
    ``grad_x F / c_k + grad_x f(x, y) - grad_x f(x, theta)``, both at the old y. theta and y are projected onto Y.
    theta starts at y. As in MESO the fixed point is biased by the penalty, by an error of order 1 / c_k. (MESO moves x
    at the new y, and has another exponent of the penalty and no box.)

    Source: Yao, Yin, Zeng and Zhang, "Overcoming lower-level constraints in bilevel optimization: a novel approach
    with regularized gap functions", arXiv 2406.01992, 2024.
    """

    keeps = ("theta",)

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        options: GAFFOOptions = self.options
        scale = 1.0 / (options.c0 * (current_iter + 1) ** options.p)
        y = self.start()
        theta = functional.detached(auxiliary["theta"] if auxiliary else y)
        by_theta = autodiff.grad(self.lower_value(theta, ll_feed_dict), theta)
        pull = functional.axpy(-1.0, y, theta)
        theta = functional.axpy(-options.eta, functional.axpy(1.0 / options.gamma, pull, by_theta), theta)
        theta = functional.cut(self.projected(_projected(theta, options)))

        def value() -> jt.Var:
            gap = self.lower_value(y, ll_feed_dict) - self.lower_value(theta, ll_feed_dict)
            return scale * self.upper_value(y, ul_feed_dict) + gap

        upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y)
        here = self.lower_gradients(y, ll_feed_dict)
        at_theta = autodiff.grad(self.lower_value(theta, ll_feed_dict), self.ul_var)
        push = functional.axpy(-1.0, theta, y)
        by_y = functional.axpy(-1.0 / options.gamma, push, functional.axpy(scale, upper.by_y, here.by_y))
        by_x = functional.axpy(-1.0, at_theta, functional.axpy(scale, upper.by_x, here.by_x))
        by_x = functional.detached(by_x)
        moved, state = self.lower_step(y, by_y, together_with=[*by_x, upper.loss, here.loss])
        moved = functional.cut(self.projected(_projected(moved, options)))
        return FirstOrderStep(
            gradients=by_x,
            ll_parameters=moved,
            ll_state=state,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(here.loss.item()),
            auxiliary={"theta": theta},
            diagnostics={"gaffo_penalty": 1.0 / scale},
            value=value,
        )


def _projected(y: Sequence[jt.Var], options: GAFFOOptions) -> list[jt.Var]:
    """The nearest point of the box; NaN, which Jittor's ``minimum`` and ``maximum`` may drop, stays NaN."""
    result = list(y)
    if options.y_min is not None:
        result = [v + (options.y_min - v).maximum(0.0) for v in result]
    if options.y_max is not None:
        result = [v + (options.y_max - v).minimum(0.0) for v in result]
    return result

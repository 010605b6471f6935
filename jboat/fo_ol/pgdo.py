"""PGDO: the penalty-based method PBGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat import autodiff, functional
from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.registry import register_operator
from jboat.spelling import nearest
import jittor as jt


@dataclass(frozen=True)
class PGDOOptions:
    """Options of PGDO.

    Attributes:
        penalty: ``"value"`` for ``f(x, y) - f(x, y_hat)``, ``"gradient"`` for ``||grad_y f||^2``.
        y_hat_lr: step size of the gradient steps from y to y_hat, positive.
        gamma_init: weight of the penalty at the first outer step, at least 0.
        gamma_max: weight of the penalty in the end, positive and at least ``gamma_init``.
        gamma_argmax_step: outer steps over which the weight rises, at least 1.
    """

    penalty: str = "value"
    y_hat_lr: float = 0.1
    gamma_init: float = 0.1
    gamma_max: float = 10.0
    gamma_argmax_step: int = 1000

    def __post_init__(self) -> None:
        if self.penalty not in ("value", "gradient"):
            hint = nearest(self.penalty, ("value", "gradient"))
            raise ValueError(
                f"solver_config['PGDO']['penalty'] must be 'value' or 'gradient', got {self.penalty!r}.{hint}"
            )
        if not self.gamma_init >= 0.0:
            raise ValueError(f"solver_config['PGDO']['gamma_init'] must be at least 0, got {self.gamma_init}")
        for name in ("y_hat_lr", "gamma_max"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"solver_config['PGDO'][{name!r}] must be positive, got {getattr(self, name)}")
        if self.gamma_max < self.gamma_init:
            raise ValueError(f"solver_config['PGDO']['gamma_max'] must be at least gamma_init, got {self.gamma_max}")
        steps = self.gamma_argmax_step
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"solver_config['PGDO']['gamma_argmax_step'] must be an integer >= 1, got {steps!r}")


@register_operator(
    "fo", options=PGDOOptions, cost="lower_iters + 1 lower gradients, one upper gradient; memory of one step"
)
class PGDO(FirstOrder):
    """Joint descent on ``F + gamma p`` with p the value gap or the squared lower gradient.

    The value penalty is ``f(x, y) - f(x, y_hat)`` with y_hat, a constant, ``lower_iters`` gradient steps away from y;
    the gradient penalty ``||grad_y f(x, y)||^2`` needs one second derivative. gamma rises linearly from ``gamma_init``
    to ``gamma_max`` over ``gamma_argmax_step`` outer steps.

    Its fixed point is biased: it solves the penalised problem with ``gamma_max``, whose y lies off the lower solution,
    towards smaller F, by a distance of order 1 / gamma.

    Source: Shen and Chen, "On penalty-based bilevel gradient descent method", ICML 2023.
    """

    keeps = ()

    @staticmethod
    def cannot_project(options: PGDOOptions) -> str:
        """With the gradient penalty, which a constrained solution does not make vanish."""
        return (
            "" if options.penalty == "value" else "with penalty = 'gradient', which no constrained solution minimises"
        )

    def needs_second_derivatives(self) -> bool:
        """Whether the penalty is the lower gradient's norm."""
        return bool(self.options.penalty == "gradient")

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        options = self.options
        share = min(1.0, current_iter / options.gamma_argmax_step)
        gamma = options.gamma_init + share * (options.gamma_max - options.gamma_init)
        y = self.start()
        upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y)
        if options.penalty == "value":
            here, there, penalty_again = self.value_gap(y, ll_feed_dict, lr=options.y_hat_lr)
            penalty, lower_loss = here.value - there.value, here.loss
            penalty_by_x, penalty_by_y = functional.axpy(-1.0, there.by_x, here.by_x), here.by_y
        else:
            lower_loss = self.lower_loss(y, ll_feed_dict).detach()

            def squared(v: Sequence[jt.Var]) -> jt.Var:
                gradient = autodiff.grad(self.lower_value(v, ll_feed_dict), v)
                return functional.dot(gradient, gradient)

            found, penalty_again = self.gradients(squared, y), lambda: squared(y)
            penalty, penalty_by_x, penalty_by_y = found.loss, found.by_x, found.by_y
        by_x = functional.detached(functional.axpy(gamma, penalty_by_x, upper.by_x))
        others = [*by_x, upper.loss, lower_loss, penalty]
        y_new, state = self.lower_step(y, functional.axpy(gamma, penalty_by_y, upper.by_y), together_with=others)
        return FirstOrderStep(
            gradients=by_x,
            ll_parameters=y_new,
            ll_state=state,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(lower_loss.item()),
            diagnostics={"pgdo_gamma": gamma, "pgdo_penalty": float(penalty.item())},
            value=lambda: self.upper_value(y, ul_feed_dict) + gamma * penalty_again(),
        )

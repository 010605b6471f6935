"""FD: finite differences of the lower gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jittor as jt

from jboat import autodiff, functional, registry
from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory

_TINY = 1e-30


@dataclass(frozen=True)
class FDOptions:
    """Options of FD.

    Attributes:
        r: radius of the perturbation of the lower-level variables, positive.
    """

    r: float = 0.01

    def __post_init__(self) -> None:
        if not self.r > 0.0:
            raise ValueError(f"solver_config['FD']['r'] must be positive, got {self.r}")


@register_operator("na", options=FDOptions)
class FD(HyperGradientOperator):
    """One-step unrolling with the mixed derivative by a central difference.

    With ``v = grad_y F(y_K)`` and ``e = r / ||v||`` the hypergradient is
    ``grad_x F - s (grad_x phi(y_{K-1} + e v) - grad_x phi(y_{K-1} - e v)) / (2 e)``; K = 1 is DARTS. Where parameter
    groups have different learning rates, v is weighted by theirs relative to the first.

    Source: Liu, Simonyan and Yang, "DARTS: differentiable architecture search", ICLR 2019.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._r = float(registry.options(self.solver_config, "FD").r)

    def compute_gradients(
        self,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        auxiliary_model: Trajectory,
        max_loss_iter: int = 0,
        hyper_gradient_finished: bool = False,
        next_operation: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Compute the hypergradient.

        Args:
            ll_feed_dict: the lower batch, or one per inner step.
            ul_feed_dict: the upper batch.
            auxiliary_model: the trajectory, of at least one step.
            max_loss_iter: unused: PTT hands on a trajectory that ends there.
            hyper_gradient_finished: must be False.
            next_operation: must be None.
            kwargs: ignored.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished`` and ``hyper_gradient``; with DI ``ll_init_gradient``.

        Raises:
            AssertionError: if the hypergradient is finished already or another operator follows.
        """
        self._require_terminal(next_operation, hyper_gradient_finished)
        loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
        rates = auxiliary_model.learning_rates
        direction = [v * (rate / rates[0]) for v, rate in zip(by_y, rates, strict=True)]
        norm = jt.sqrt(functional.dot(direction, direction))
        radius = (self._r / jt.maximum(norm, _TINY * jt.ones_like(norm))).detach()
        step = auxiliary_model.last - 1
        before = auxiliary_model.parameters(step)
        sides = []
        for sign in (1.0, -1.0):
            shifted = functional.detached(functional.axpy(sign * radius, direction, before))
            jt.sync([*shifted, radius])
            phi = self._lower(auxiliary_model, step, ll_feed_dict, ul_feed_dict, shifted)
            sides.append(functional.detached(autodiff.grad(phi, self.ul_var)))
            jt.sync(sides[-1])
        difference = functional.axpy(-1.0, sides[1], sides[0])
        scale = -rates[0] / (2.0 * radius)
        return self._result(auxiliary_model, loss, functional.axpy(scale, difference, by_x), by_y)

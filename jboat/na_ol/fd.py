"""FD: finite differences of the lower gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat import autodiff, functional
from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.na_ol.terminal import Terminal, UpperGradients
from jboat.registry import register_operator
from jboat.trajectory import Trajectory
import jittor as jt

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


@register_operator("na", options=FDOptions, cost="two gradients by x; memory of one step")
class FD(Terminal):
    """One-step unrolling with the mixed derivative by a central difference.

    With ``v = grad_y F(y_K)`` and ``e = r / ||v||`` the hypergradient is
    ``grad_x F - s (grad_x phi(y_{K-1} + e v) - grad_x phi(y_{K-1} - e v)) / (2 e)``; K = 1 is DARTS. Where parameter
    groups have different learning rates, v is weighted by theirs relative to the largest, which is then s.

    Source: Liu, Simonyan and Yang, "DARTS: differentiable architecture search", ICLR 2019.
    """

    capabilities = UpperCapabilities()

    @property
    def _r(self) -> float:
        """The radius of the perturbation."""
        return float(self.options.r)

    def total(
        self,
        trajectory: Trajectory,
        upper: UpperGradients,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        hparams: Sequence[jt.Var] | None,
    ) -> tuple[list[jt.Var], dict[str, float]]:
        """See :meth:`Terminal.total`."""
        rates = trajectory.learning_rates
        rate = max(rates, key=abs)
        if rate == 0.0:
            return upper.by_x, {}
        direction = [v * (own / rate) for v, own in zip(upper.by_y, rates, strict=True)]
        per_radius = max(functional.norm(direction), _TINY) / self._r  # in this order, which keeps NaN
        step = trajectory.last - 1
        before = trajectory.parameters(step)
        sides = []
        for sign in (1.0, -1.0):
            shifted = functional.cut(functional.axpy(sign / per_radius, direction, before))
            gradient = autodiff.grad(self._lower(trajectory, step, ll_feed_dict, ul_feed_dict, shifted), self.ul_var)
            sides.append(functional.cut(gradient))
        difference = functional.axpy(-1.0, sides[1], sides[0])
        return functional.axpy(-0.5 * rate * per_radius, difference, upper.by_x), {}

"""FD: finite differences of the lower gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat import autodiff, functional
from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.na_ol.switch import goes_through, switch
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
        through_optimizer: differentiate the last step of the lower optimizer itself, its state held, instead of one
            of plain gradient descent.
    """

    r: float = 0.01
    through_optimizer: bool = False

    def __post_init__(self) -> None:
        switch("through_optimizer of FD", self.through_optimizer)
        if not self.r > 0.0:
            raise ValueError(f"solver_config['FD']['r'] must be positive, got {self.r}")


@register_operator(
    "na", options=FDOptions, cost="two gradients by x, and with through_optimizer one by y; memory of one step"
)
class FD(Terminal):
    """One-step unrolling with the mixed derivative by a central difference.

    With ``v = grad_y F(y_K)`` and ``e = r / ||v||`` the hypergradient is
    ``grad_x F - s (grad_x phi(y_{K-1} + e v) - grad_x phi(y_{K-1} - e v)) / (2 e)``; K = 1 is DARTS. Where parameter
    groups have different learning rates, v is weighted by theirs relative to the largest, which is then s.

    With ``through_optimizer`` the last step is the lower optimizer's, ``y_K = T(y_{K-1}, g)`` with
    ``g = grad_y phi(y_{K-1})``: with ``w = (dT/dg)' v`` and ``e = r / ||w||`` the hypergradient is
    ``grad_x F + (grad_x phi(y_{K-1} + e w) - grad_x phi(y_{K-1} - e w)) / (2 e)``, which is what RGT before RAD gives
    with M = K - 1, under Adam and the others too, in the memory of one step.

    Sources: Liu, Simonyan and Yang, "DARTS: differentiable architecture search", ICLR 2019; Choe, Mehta, Ahn,
    Neiswanger, Xie, Strubell and Xing, "Making scalable meta learning practical", NeurIPS 2023 (``through_optimizer``).
    """

    capabilities = UpperCapabilities(sees_lower_step=goes_through)

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
        step = trajectory.last - 1
        through = goes_through(self.options)
        if through:
            jacobian = self._last_step(trajectory, ll_feed_dict, ul_feed_dict)
            total, direction, factor = upper.by_x, jacobian.by_gradients(upper.by_y), 0.5
            if trajectory.steps_depend_on_x:
                total = functional.axpy(1.0, jacobian.by_upper(self.ul_var, upper.by_y), total)
        else:
            rates = trajectory.learning_rates
            rate = max(rates, key=abs)
            if rate == 0.0:
                return upper.by_x, {}
            direction = [v * (own / rate) for v, own in zip(upper.by_y, rates, strict=True)]
            total, factor = upper.by_x, -0.5 * rate
        per_radius = max(functional.norm(direction), _TINY) / self._r  # in this order, which keeps NaN
        before = trajectory.parameters(step)
        sides = []
        for sign in (1.0, -1.0):
            shifted = functional.cut(functional.axpy(sign / per_radius, direction, before))
            # the decay of the optimizer does not depend on x; with it would come a warning that is not true here
            phi = self._lower(trajectory, step, ll_feed_dict, ul_feed_dict, shifted, decay=not through)
            gradient = autodiff.grad(phi, self.ul_var)
            del phi
            sides.append(functional.cut(gradient))
        difference = functional.axpy(-1.0, sides[1], sides[0])
        return functional.axpy(factor * per_radius, difference, total), {}

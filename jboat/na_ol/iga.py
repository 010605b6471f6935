"""IGA: implicit gradient approximation."""

from __future__ import annotations

from collections.abc import Sequence
import math

from jboat import autodiff, functional
from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.na_ol.terminal import Terminal, UpperGradients
from jboat.registry import register_operator
from jboat.trajectory import Trajectory
import jittor as jt

_SMALL = 0.1
"""The share of ``||grad_y F||`` below which a lower gradient is worth a warning."""


@register_operator("na", cost="one gradient; memory of one step")
class IGA(Terminal):
    """``grad_x F - (<grad_y F, grad_y phi> / ||grad_y phi||^2) grad_x phi``, from first derivatives alone.

    The quotient grows like ``1 / ||grad_y phi||`` where the lower level converges, so that more lower steps make the
    result worse: with ``f = y^2 / 2 - x y``, ``F = x^2 / 2 + (y - 3)^2 / 2``, x = 1, y_0 = 0 and lr 0.5 it is +7.75,
    +64, +2048 after 2, 5, 10 lower steps, where the hypergradient is -1. Take few lower steps. One warning a run tells
    of a lower gradient below a tenth of ``||grad_y F||``; where it vanishes exactly, the result is NaN.

    Source: Liu, Gao, Liu and Fan, "Learning with constraint learning: new perspective, solution strategy and various
    applications", IEEE TPAMI 2024.
    """

    capabilities = UpperCapabilities()

    def total(
        self,
        trajectory: Trajectory,
        upper: UpperGradients,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        hparams: Sequence[jt.Var] | None,
    ) -> tuple[list[jt.Var], dict[str, float]]:
        """See :meth:`Terminal.total`."""
        y = trajectory.parameters()
        variables = [*self.ul_var, *y]
        gradients = functional.detached(
            # phi has no name, since what is held is computed too
            autodiff.grad(self._lower(trajectory, trajectory.last - 1, ll_feed_dict, ul_feed_dict, y), variables)
        )
        phi_by_x, phi_by_y = gradients[: len(self.ul_var)], gradients[len(self.ul_var) :]
        pairs = ((upper.by_y, phi_by_y), (phi_by_y, phi_by_y), (upper.by_y, upper.by_y))
        products = functional.cut([functional.dot(*pair) for pair in pairs], together_with=gradients)
        inner, lower_square, upper_square = (p.item() for p in products)
        if functional.safe_squares(lower_square) and functional.safe_squares(upper_square):
            ratio, lower_norm, upper_norm = inner / lower_square, math.sqrt(lower_square), math.sqrt(upper_square)
        else:
            lower_norm, upper_norm = functional.norm(phi_by_y), functional.norm(upper.by_y)
            ratio = _ratio(upper.by_y, phi_by_y, upper_norm, lower_norm)
        if lower_norm < _SMALL * upper_norm:
            self.warn(
                "IGA: the lower gradient's norm, %.2g, is small against that of grad_y F, %.2g. IGA's formula divides "
                "by it, so that it grows without bound as the lower level converges: take fewer lower steps, or CG, "
                "NS or RAD",
                lower_norm,
                upper_norm,
            )
        return functional.axpy(-ratio, phi_by_x, upper.by_x), {}


def _ratio(a: Sequence[jt.Var], b: Sequence[jt.Var], a_norm: float, b_norm: float) -> float:
    """``<a, b> / ||b||^2`` by way of unit vectors; NaN where b vanishes, 0 where only a does."""
    if b_norm == 0.0 or math.isnan(a_norm + b_norm):
        return math.nan
    if a_norm == 0.0:
        return 0.0
    units = functional.times(1.0 / a_norm, a), functional.times(1.0 / b_norm, b)
    return float(functional.dot(*units).item()) * (a_norm / b_norm)

"""CG: implicit differentiation by conjugate gradient."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jboat.linear_solvers import MatrixVectorProduct, Solution, conjugate_gradient
from jboat.na_ol.implicit import ImplicitHyperGradient
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class CGOptions:
    """Options of CG, and of NS where it has no section of its own.

    Attributes:
        k: the largest number of iterations, one Hessian-vector product each; at least 1.
        tolerance: relative size at which to stop, at least 0: of the residual for CG, of the newest term for NS.
    """

    k: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k of CG and NS must be an integer >= 1, got {self.k!r}")
        if not self.tolerance >= 0.0:
            raise ValueError(f"tolerance of CG and NS must be >= 0, got {self.tolerance}")


@register_operator("na", options=CGOptions, cost="up to k Hessian-vector products; memory of one step")
class CG(ImplicitHyperGradient):
    """``grad_x F - (d2 phi / dx dy) q`` with ``(d2 phi / dy2) q = grad_y F`` by at most k CG iterations.

    Source: Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    """

    capabilities = dataclasses.replace(ImplicitHyperGradient.capabilities, multiplier_update="line search")

    def solve(self, product: MatrixVectorProduct, b: list[jt.Var], learning_rates: list[float]) -> Solution:
        """See :func:`jboat.linear_solvers.conjugate_gradient`."""
        return conjugate_gradient(product, b, iterations=self.K, tolerance=self.tolerance)

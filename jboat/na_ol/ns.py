"""NS: implicit differentiation by a Neumann series."""

from __future__ import annotations

from jboat.linear_solvers import MatrixVectorProduct, Solution, neumann_series
from jboat.na_ol.cg import CGOptions
from jboat.na_ol.implicit import ImplicitHyperGradient
from jboat.registry import register_operator
import jittor as jt


@register_operator("na", options=CGOptions, cost="up to k Hessian-vector products; memory of one step")
class NS(ImplicitHyperGradient):
    """``grad_x F - (d2 phi / dx dy) q`` with ``q = s sum_{j=0..k} (I - s d2 phi / dy2)^j grad_y F``.

    s is the lower-level learning rate. Options come from the section NS if there is one, else from CG.

    Source: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation",
    AISTATS 2020.
    """

    shares_options_with = ("CG",)

    def solve(self, product: MatrixVectorProduct, b: list[jt.Var], learning_rates: list[float]) -> Solution:
        """See :func:`jboat.linear_solvers.neumann_series`."""
        return neumann_series(product, b, scales=learning_rates, terms=self.K, tolerance=self.tolerance)

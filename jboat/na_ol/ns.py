"""NS: implicit differentiation by a Neumann series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat.linear_solvers import MatrixVectorProduct, Solution, from_start, neumann_series
from jboat.na_ol.implicit import ImplicitHyperGradient, ImplicitOptions
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class NSOptions(ImplicitOptions):
    """Options of NS.

    Attributes:
        k: the largest number of terms after the first, one Hessian-vector product each; at least 1.
        tolerance: size of the newest term, relative to the first one's, at which to stop; at least 0.
        damping: added to every eigenvalue of the Hessian, at least 0.
        warm_start: begin at the solution of the last outer step instead of zero, for one product more: the terms are
            then added to it. Checkpoints hold the solution.
    """


@register_operator(
    "na",
    options=NSOptions,
    cost="up to k Hessian-vector products, one more with warm_start; memory of one step",
)
class NS(ImplicitHyperGradient):
    """``grad_x F - (d2 phi / dx dy) q`` with ``q = s sum_{j=0..k} (I - s d2 phi / dy2)^j grad_y F``.

    s is the lower-level learning rate. Options come from the section NS if there is one, else from CG.

    Source: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation",
    AISTATS 2020.
    """

    shares_options_with = ("CG",)

    def solve(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        learning_rates: list[float],
        start: Sequence[jt.Var] | None = None,
    ) -> Solution:
        """See :func:`jboat.linear_solvers.neumann_series`."""
        if start is None:
            return neumann_series(product, b, scales=learning_rates, terms=self.K, tolerance=self.tolerance)
        return from_start(
            neumann_series, product, b, start, scales=learning_rates, terms=self.K, tolerance=self.tolerance
        )

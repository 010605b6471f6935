"""NS: implicit differentiation by a Neumann series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboat import functional
from jboat.linear_solvers import MatrixVectorProduct, Solution, from_start, neumann_series
from jboat.na_ol.implicit import ImplicitHyperGradient, ImplicitOptions
from jboat.registry import register_operator
from jboat.step_jacobian import StepJacobian
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
        through_optimizer: take the lower optimizer's own step, as it was the last time, in place of one of plain
            gradient descent: the series is that of its fixed point.
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

    def solve_through(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        jacobian: StepJacobian,
        start: Sequence[jt.Var] | None = None,
    ) -> tuple[Solution, list[jt.Var]]:
        """``u = sum_{j=0..k} (dT/dy + dT/dg H)'^j b`` and ``-(dT/dg)' u``; see the base class."""

        def remaining(u: list[jt.Var]) -> list[jt.Var]:
            through_gradient = product(jacobian.by_gradients(u))
            next_term = functional.axpy(1.0, through_gradient, jacobian.by_parameters(u))
            return functional.axpy(-1.0, next_term, u)

        given = {} if start is None else {"start": start}
        solution = self.solve(remaining, b, [1.0] * len(b), **given)
        return solution, functional.cut(functional.times(-1.0, jacobian.by_gradients(solution.vector)))

    def adjoint(
        self,
        solution: Solution,
        q: Sequence[jt.Var],
        product: MatrixVectorProduct,
        b: Sequence[jt.Var],
        jacobian: StepJacobian,
    ) -> list[jt.Var]:
        """The sum of the series itself."""
        return solution.vector

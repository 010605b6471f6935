"""CG: implicit differentiation by conjugate gradient."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass

from jboat import functional
from jboat.linear_solvers import MatrixVectorProduct, Solution, conjugate_gradient, from_start
from jboat.minimal_residual import minres, normal_equations
from jboat.na_ol.implicit import ImplicitHyperGradient, ImplicitOptions
from jboat.registry import register_operator
from jboat.spelling import nearest
from jboat.step_jacobian import StepJacobian
import jittor as jt

_SOLVERS = {"cg": conjugate_gradient, "minres": minres, "normal_cg": normal_equations}


@dataclass(frozen=True)
class CGOptions(ImplicitOptions):
    """Options of CG.

    Attributes:
        k: the largest number of iterations, one Hessian-vector product each, or two with ``"normal_cg"``; at least 1.
        tolerance: relative size of the residual at which to stop, at least 0. One above it after k iterations is
            told once a run.
        damping: added to every eigenvalue of the Hessian, at least 0: the system is ``(H + damping I) q = grad_y F``.
        warm_start: begin at the solution of the last outer step, for one product more; on problems that change slowly
            far fewer iterations are then needed. Checkpoints hold the solution.
        solver: ``"cg"`` for a positive definite Hessian; ``"minres"`` for one with negative curvature too, at the same
            cost; ``"normal_cg"``, conjugate gradient on the normal equations, the most robust where it is singular, at
            twice the cost an iteration.
        through_optimizer: solve for the fixed point of the lower optimizer's own step, as it was the last time: its
            decoupled weight decay counts, what it does not move is left out, and its step sizes precondition the
            system. Under plain gradient descent that changes nothing.
    """

    solver: str = "cg"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in _SOLVERS:
            listing = ", ".join(repr(name) for name in _SOLVERS)
            raise ValueError(
                f"solver of CG must be one of {listing}, got {self.solver!r}.{nearest(self.solver, _SOLVERS)}"
            )


@register_operator(
    "na",
    options=CGOptions,
    cost="up to k Hessian-vector products (2 k + 1 with normal_cg), one more with warm_start; memory of one step",
)
class CG(ImplicitHyperGradient):
    """``grad_x F - (d2 phi / dx dy) q`` with ``(d2 phi / dy2) q = grad_y F`` by at most k CG iterations.

    Where the Hessian is not positive definite, CG stops at the first direction that shows it, and returns the best
    iterate; ``solver="minres"`` (Paige and Saunders 1975) goes on. Either way a warning names the curvature.

    Source: Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    """

    capabilities = dataclasses.replace(ImplicitHyperGradient.capabilities, multiplier_update="line search")
    stops_at_tolerance = True

    def solve(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        learning_rates: list[float],
        start: Sequence[jt.Var] | None = None,
    ) -> Solution:
        """See :func:`jboat.linear_solvers.conjugate_gradient`, and :mod:`jboat.minimal_residual`."""
        solver = _SOLVERS[getattr(self.options, "solver", "cg")]
        if start is None:
            return solver(product, b, iterations=self.K, tolerance=self.tolerance)
        return from_start(solver, product, b, start, iterations=self.K, tolerance=self.tolerance)

    def solve_through(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        jacobian: StepJacobian,
        start: Sequence[jt.Var] | None = None,
    ) -> tuple[Solution, list[jt.Var]]:
        """``q = R z`` with ``(R H R + S (I - J)) z = R b``; see the base class.

        J and -P are the diagonals of dT/dy and dT/dg, ``R = |P|^(1/2)`` and S the signs of P: with ``u = P^-1 q`` that
        is the fixed-point equation, made symmetric.
        """
        by_parameters, by_gradients = self.diagonals(jacobian, b)
        roots = functional.cut([d.abs().sqrt() for d in by_gradients])
        signs = [jt.where(d > 0.0, -jt.ones_like(d), jt.ones_like(d)) for d in by_gradients]
        kept = functional.cut([s * (1.0 - j) for s, j in zip(signs, by_parameters, strict=True)])

        def times(factors: Sequence[jt.Var], vector: Sequence[jt.Var]) -> list[jt.Var]:
            return [r * v for r, v in zip(factors, vector, strict=True)]

        def scaled(z: list[jt.Var]) -> list[jt.Var]:
            image = product(functional.cut(times(roots, z)))
            return functional.axpy(1.0, times(kept, z), times(roots, image))

        given = {} if start is None else {"start": start}
        solution = self.solve(scaled, functional.cut(times(roots, b)), [], **given)
        return solution, functional.cut(times(roots, solution.vector))

"""The implicit hypergradient, which CG and NS complete with a linear solver each."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import autodiff, functional
from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.linear_solvers import MatrixVectorProduct, Solution
from jboat.na_ol.terminal import Terminal, UpperGradients
from jboat.trajectory import Trajectory
import jittor as jt


class ImplicitHyperGradient(Terminal):
    """``grad_x F - (d2 phi / dx dy) q`` where q solves, or approximates, ``(d2 phi / dy2) q = grad_y F``."""

    capabilities = UpperCapabilities(solves_with_hessian=True)

    @property
    def K(self) -> int:  # noqa: N802  (the name is part of the API)
        """The largest number of solver iterations."""
        return int(self.options.k)

    @property
    def tolerance(self) -> float:
        """The relative size at which the solver stops."""
        return float(self.options.tolerance)

    def solve(self, product: MatrixVectorProduct, b: list[jt.Var], learning_rates: list[float]) -> Solution:
        """The vector q for the Hessian given as a product and ``b = grad_y F``."""
        raise NotImplementedError(f"{type(self).__name__} must define solve()")

    def total(
        self,
        trajectory: Trajectory,
        upper: UpperGradients,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        hparams: Sequence[jt.Var] | None,
    ) -> tuple[list[jt.Var], dict[str, float]]:
        """See :meth:`Terminal.total`."""
        by_x = upper.by_x if hparams is None else [jt.zeros_like(v) for v in hparams]
        y = trajectory.parameters()
        gradient = autodiff.grad(self._lower(trajectory, trajectory.last - 1, ll_feed_dict, ul_feed_dict, y), y)
        jt.sync(gradient)
        solution = self.solve(lambda v: autodiff.vjp(gradient, y, v), upper.by_y, trajectory.learning_rates)
        through_y = autodiff.vjp(gradient, self.ul_var if hparams is None else hparams, solution.vector)
        name = type(self).__name__
        if solution.breakdown:
            self.warn(
                "%s: the hypergradient is an approximation (relative residual %.2g), for %s: where the lower steps "
                "end, the lower objective is not strongly convex, or too ill-conditioned for so few iterations. More "
                "iterations or lower steps, weight decay, or RAD may help",
                name,
                solution.residual,
                solution.breakdown,
            )
        diagnostics = {
            f"{name.lower()}_iterations": float(solution.iterations),
            f"{name.lower()}_residual": solution.residual,
            f"{name.lower()}_breakdown": float(bool(solution.breakdown)),
        }
        return functional.axpy(-1.0, through_y, by_x), diagnostics

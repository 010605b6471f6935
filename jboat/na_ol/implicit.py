"""The implicit hypergradient, which CG, NS and NYS complete with a way to solve a linear system each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, ClassVar

from jboat import autodiff, functional
from jboat.capabilities import UpperCapabilities
from jboat.chain_plan import ChainPlan
from jboat.levels import Batch, Objective
from jboat.linear_solvers import MatrixVectorProduct, Solution
from jboat.na_ol.switch import goes_through, switch
from jboat.na_ol.terminal import Terminal, UpperGradients
from jboat.step_jacobian import StepJacobian
from jboat.trajectory import Trajectory
import jittor as jt

SOLUTION = "linear_solution"
"""What the solution of the linear system is called where it is kept for the next outer step."""


@dataclass(frozen=True)
class ImplicitOptions:
    """What the iterative solvers of the implicit hypergradient have in common.

    Attributes:
        k: the largest number of iterations, at least 1.
        tolerance: relative size at which to stop, at least 0.
        damping: added to every eigenvalue of the Hessian, at least 0.
        warm_start: whether to begin at the solution of the last outer step.
        through_optimizer: whether the lower optimizer's own step is differentiated.
    """

    k: int = 10
    tolerance: float = 1e-6
    damping: float = 0.0
    warm_start: bool = False
    through_optimizer: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k of CG and NS must be an integer >= 1, got {self.k!r}")
        if not self.tolerance >= 0.0:
            raise ValueError(f"tolerance of CG and NS must be >= 0, got {self.tolerance}")
        if not 0.0 <= self.damping < math.inf:
            raise ValueError(f"damping of CG and NS must be a finite number >= 0, got {self.damping}")
        switch("warm_start of CG and NS", self.warm_start)
        switch("through_optimizer of CG and NS", self.through_optimizer)


def keeps(options: Any) -> tuple[str, ...]:
    """The solution, where the next outer step begins with it."""
    return (SOLUTION,) if getattr(options, "warm_start", False) else ()


class ImplicitHyperGradient(Terminal):
    """``grad_x F - (d2 phi / dx dy) q`` where q solves, or approximates, ``(d2 phi / dy2 + damping I) q = grad_y F``.

    Attributes:
        stops_at_tolerance: whether :meth:`solve` goes on until the residual is at most the tolerance, so that one above
            it is worth a warning.
        current_iter: the number of the outer step under way, from 0.
    """

    capabilities = UpperCapabilities(solves_with_hessian=True, keeps=keeps, sees_lower_step=goes_through)
    stops_at_tolerance: ClassVar[bool] = False

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ll_model: jt.Module,
        ul_model: jt.Module,
        ll_var: Sequence[jt.Var],
        ul_var: Sequence[jt.Var],
        solver_config: Mapping[str, Any],
    ) -> None:
        super().__init__(ll_objective, ul_objective, ll_model, ul_model, ll_var, ul_var, solver_config)
        self.current_iter = 0
        self._kept: Mapping[str, list[jt.Var]] = {}
        self._moves_entries_alone = False

    @staticmethod
    def check_options(options: Any, plan: ChainPlan, lower_iters: int) -> None:
        """Refuse options of a linear system where none is solved: beside a multiplier step.

        Raises:
            ValueError: if one is set.
        """
        if plan.has_lower_loop:
            return
        for name, default in (("damping", 0.0), ("warm_start", False), ("solver", "cg"), ("through_optimizer", False)):
            if getattr(options, name, default) != default:
                raise ValueError(
                    f"{name} of {plan.operators[-1].name} means nothing beside DM, whose multiplier takes one step an "
                    "outer step and solves no linear system; leave it out"
                )

    @property
    def K(self) -> int:  # noqa: N802  (the name is part of the API)
        """The largest number of solver iterations."""
        return int(self.options.k)

    @property
    def tolerance(self) -> float:
        """The relative size at which the solver stops."""
        return float(self.options.tolerance)

    @property
    def damping(self) -> float:
        """What is added to every eigenvalue of the Hessian."""
        return float(getattr(self.options, "damping", 0.0))

    def solve(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        learning_rates: list[float],
        start: Sequence[jt.Var] | None = None,
    ) -> Solution:
        """The vector q for the Hessian given as a product and ``b = grad_y F``.

        Args:
            product: ``v -> H v``, damping included.
            b: one Var per lower-level variable.
            learning_rates: that of each variable.
            start: the solution of the last outer step; given with ``warm_start`` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must define solve()")

    def solve_through(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        jacobian: StepJacobian,
        start: Sequence[jt.Var] | None = None,
    ) -> tuple[Solution, list[jt.Var]]:
        """The solution of the lower optimizer's fixed-point equation, and ``q = -(dT/dg)' u`` that follows from it.

        At a fixed point ``y = T(y, grad_y phi(x, y))`` the hypergradient is ``grad_x F - (d2 phi / dx dy) q`` with
        ``(I - dT/dy - dT/dg H)' u = grad_y F``.

        Args:
            product: ``v -> H v``, damping included, H without the weight decay that the optimizer adds.
            b: ``grad_y F``.
            jacobian: that of the last lower step.
            start: the solution of the last outer step; given with ``warm_start`` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must define solve_through()")

    def adjoint(
        self,
        solution: Solution,
        q: Sequence[jt.Var],
        product: MatrixVectorProduct,
        b: Sequence[jt.Var],
        jacobian: StepJacobian,
    ) -> list[jt.Var]:
        """The u of :meth:`solve_through`, entry by entry: ``-q`` over dT/dg or, where that is 0, from its equation."""
        by_parameters, by_gradients = jacobian.diagonals()
        found, rest = [], functional.cut(functional.axpy(-1.0, product(list(q)), b))
        for v, left, j, g in zip(q, rest, by_parameters, by_gradients, strict=True):
            kept = 1.0 - j
            held = jt.where(kept == 0.0, jt.zeros_like(left), left / jt.where(kept == 0.0, jt.ones_like(kept), kept))
            found.append(jt.where(g == 0.0, held, -v / jt.where(g == 0.0, jt.ones_like(g), g)))
        return functional.cut(found)

    def diagonals(self, jacobian: StepJacobian, probe: Sequence[jt.Var]) -> tuple[list[jt.Var], list[jt.Var]]:
        """The diagonals of dT/dy and dT/dg.

        Raises:
            ValueError: if the step of an entry depends on other entries.
        """
        by_parameters, by_gradients = jacobian.diagonals()
        if not self._moves_entries_alone and jacobian.mixes_entries(by_gradients, probe):
            raise ValueError(
                f"{type(self).__name__}: through_optimizer takes the lower step entry by entry, but at outer step "
                f"{self.current_iter + 1} the step of an entry depends on others, as where gradients are clipped by "
                "their norm or y is projected onto a simplex or a ball; take NS, FD or RAD"
            )
        self._moves_entries_alone = True
        return by_parameters, by_gradients

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
        """See :meth:`Terminal.compute_gradients`.

        Besides, ``current_iter`` is the number of the outer step, from 0, and ``kept`` what the last one returned under
        this name: with ``warm_start`` a dict with the solution of the linear system.
        """
        self.current_iter = int(kwargs.get("current_iter", 0))
        self._kept = kwargs.get("kept") or {}
        result = super().compute_gradients(
            ll_feed_dict,
            ul_feed_dict,
            auxiliary_model,
            max_loss_iter,
            hyper_gradient_finished,
            next_operation,
            **kwargs,
        )
        if keeps(self.options):
            result["kept"] = {SOLUTION: self._kept[SOLUTION]}
        return result

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
        y, through = trajectory.parameters(), goes_through(self.options)
        at_constraint = through and trajectory.projection is not None
        if at_constraint and trajectory.holds_state:
            self.warn(
                f"{type(self).__name__}: through_optimizer holds the lower optimizer's state where y is projected, "
                "though it follows the gradient, which need not vanish at a constraint: the hypergradient may be too "
                "large or too small. Take SGD, whose velocity is followed, or RAD"
            )
        jacobian = self._last_step(trajectory, ll_feed_dict, ul_feed_dict, settled=at_constraint) if through else None
        phi = self._lower(trajectory, trajectory.last - 1, ll_feed_dict, ul_feed_dict, y, decay=not through)
        gradient = autodiff.grad(phi, y)
        del phi  # one that is held is computed with the rest
        jt.sync(gradient)
        damping = self.damping

        def product(v: list[jt.Var]) -> list[jt.Var]:
            image = autodiff.vjp(gradient, y, v)
            return functional.axpy(damping, v, image) if damping else image

        start = {"start": self._kept[SOLUTION]} if keeps(self.options) and SOLUTION in self._kept else {}
        if jacobian is None:
            solution = self.solve(product, upper.by_y, trajectory.learning_rates, **start)
            vector = solution.vector
        else:
            solution, vector = self.solve_through(product, upper.by_y, jacobian, **start)
            if trajectory.steps_depend_on_x and hparams is None:
                adjoint = self.adjoint(solution, vector, product, upper.by_y, jacobian)
                by_x = functional.axpy(1.0, jacobian.by_upper(self.ul_var, adjoint), by_x)
        if keeps(self.options):
            self._kept = {SOLUTION: solution.vector}
        through_y = autodiff.vjp(gradient, self.ul_var if hparams is None else hparams, vector)
        self._tell(solution)
        name = type(self).__name__
        diagnostics = {
            f"{name.lower()}_iterations": float(solution.iterations),
            f"{name.lower()}_residual": solution.residual,
            f"{name.lower()}_breakdown": float(bool(solution.breakdown)),
        }
        return functional.axpy(-1.0, through_y, by_x), diagnostics

    def _tell(self, solution: Solution) -> None:
        """Warn, once a run each, of what makes the hypergradient another one than it should be."""
        name, negative = type(self).__name__, solution.negative_curvature
        if solution.breakdown:
            self.warn(
                "%s: the hypergradient is an approximation (relative residual %.2g), for %s: where the lower steps "
                "end, the lower objective is not strongly convex, or too ill-conditioned for so few iterations. More "
                "iterations or lower steps, weight decay, damping%s, or RAD may help",
                name,
                solution.residual,
                solution.breakdown + (f", {negative:.2g}" if negative else ""),
                f" above {-negative:.2g}" if negative else "",
            )
            return
        if negative:
            self.warn(
                "%s: the lower Hessian has negative curvature, %.2g, where the lower steps end. That is no minimum of "
                "the lower objective, and the hypergradient that of a saddle: take more lower steps, weight decay, or "
                "damping above %.2g",
                name,
                negative,
                -negative,
            )
        if self.stops_at_tolerance and solution.residual > self.tolerance > 0.0:
            self.warn(
                "%s: the relative residual of the linear system is %.2g after k = %d iterations, above the tolerance "
                "%.2g: the hypergradient is an approximation. Raise k, begin with warm_start, or add damping; a larger "
                "tolerance says that this is good enough",
                name,
                solution.residual,
                self.K,
                self.tolerance,
            )

"""NYS: implicit differentiation by the Nystrom method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

from jboat import functional
from jboat.linear_solvers import MatrixVectorProduct, Solution
from jboat.na_ol.implicit import ImplicitHyperGradient
from jboat.na_ol.switch import switch
from jboat.nystrom import nystrom_solve
from jboat.registry import register_operator
from jboat.step_jacobian import StepJacobian
import jittor as jt
import numpy as np


@dataclass(frozen=True)
class NYSOptions:
    """Options of NYS.

    Attributes:
        k: the number of columns of the Hessian, one Hessian-vector product each, at least 1. More than there are
            lower-level parameters are not taken.
        rho: added to every eigenvalue of the Hessian, positive. It bounds the inverse where the columns tell nothing:
            there q is ``grad_y F / rho``.
        seed: which columns are drawn: others in every outer step, and the same in every run with this seed.
        through_optimizer: solve for the fixed point of the lower optimizer's own step, as it was the last time: its
            decoupled weight decay counts, and what it does not move is left out.
    """

    k: int = 10
    rho: float = 0.01
    seed: int = 0
    through_optimizer: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"k of NYS must be an integer >= 1, got {self.k!r}")
        if not 0.0 < self.rho < math.inf:
            raise ValueError(f"rho of NYS must be a positive finite number, got {self.rho}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed of NYS must be an integer >= 0, got {self.seed!r}")
        switch(type(self).__name__.removesuffix("Options"), "through_optimizer", self.through_optimizer)


@register_operator(
    "na",
    options=NYSOptions,
    cost="k + 1 Hessian-vector products; memory of one step and of k vectors as long as y",
)
class NYS(ImplicitHyperGradient):
    """``grad_x F - (d2 phi / dx dy) q`` with ``q = (H_k + rho I)^-1 grad_y F``, H_k from k columns of the Hessian.

    H_k is the Nystrom approximation of ``d2 phi / dy2`` by columns drawn at random, ``C W^+ C'`` with W the rows of C
    that have the same numbers. Nothing is iterated: it cannot diverge, as NS can, and wants no positive definite
    Hessian. The metric ``nys_residual`` is that of ``(d2 phi / dy2 + rho I) q = grad_y F``, and tells how much the
    columns see.

    Source: Hataya and Yamada, "Nystrom method for accurate and scalable implicit differentiation", AISTATS 2023.
    """

    def solve(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        learning_rates: list[float],
        start: Sequence[jt.Var] | None = None,
    ) -> Solution:
        """See :func:`jboat.nystrom.nystrom_solve`."""
        return nystrom_solve(product, b, columns=self._columns(b), shift=self.options.rho)

    def solve_through(
        self,
        product: MatrixVectorProduct,
        b: list[jt.Var],
        jacobian: StepJacobian,
        start: Sequence[jt.Var] | None = None,
    ) -> tuple[Solution, list[jt.Var]]:
        """``q = (H_k + rho I + (I - J) P^-1)^-1 b``, J and -P the diagonals of dT/dy and dT/dg; see the base class."""
        rho, inverses = self.options.rho, []
        for j, by_gradient in zip(*self.diagonals(jacobian, b), strict=True):
            denominator = (1.0 - j) - rho * by_gradient
            moves = (by_gradient != 0.0).logical_and(denominator != 0.0)
            safe = jt.where(moves, denominator, jt.ones_like(denominator))
            inverses.append(jt.where(moves, -by_gradient, jt.zeros_like(by_gradient)) / safe)
        solution = nystrom_solve(product, b, columns=self._columns(b), inverses=functional.cut(inverses))
        return solution, solution.vector

    def _columns(self, b: Sequence[jt.Var]) -> list[int]:
        options, entries = self.options, sum(v.numel() for v in b)
        rng = np.random.default_rng((options.seed, self.current_iter))
        columns: list[int] = rng.choice(entries, size=min(options.k, entries), replace=False).tolist()
        return columns

"""The implicit hypergradient, which CG and NS complete with a linear solver each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jittor as jt

from jboat import autodiff, functional
from jboat.linear_solvers import MatrixVectorProduct, Solution
from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.trajectory import Trajectory


class ImplicitHyperGradient(HyperGradientOperator):
    """``grad_x F - (d2 phi / dx dy) q`` where q solves, or approximates, ``(d2 phi / dy2) q = grad_y F``."""

    K: int
    tolerance: float

    def solve(self, product: MatrixVectorProduct, b: list[jt.Var], learning_rates: list[float]) -> Solution:
        """Q for the Hessian given as a product and ``b = grad_y F``."""
        raise NotImplementedError(f"{type(self).__name__} must define solve()")

    def compute_gradients(
        self,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        auxiliary_model: Trajectory,
        max_loss_iter: int = 0,
        hyper_gradient_finished: bool = False,
        next_operation: str | None = None,
        hparams: Sequence[jt.Var] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Compute the hypergradient at the trajectory's last iterate.

        Args:
            ll_feed_dict: the lower batch, or one per inner step.
            ul_feed_dict: the upper batch.
            auxiliary_model: the trajectory.
            max_loss_iter: unused: PTT hands on a trajectory that ends there.
            hyper_gradient_finished: must be False.
            next_operation: must be None.
            hparams: the variables to differentiate by, which IAD sets to y_0; by default ``ul_var``.
            kwargs: ignored.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished``, ``hyper_gradient`` and ``diagnostics`` (``iterations`` and
            ``residual`` of the solver); with DI ``ll_init_gradient``.

        Raises:
            AssertionError: if the hypergradient is finished already or another operator follows.
        """
        self._require_terminal(next_operation, hyper_gradient_finished)
        loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
        if hparams is None:
            hparams = self.ul_var
        else:
            by_x = [jt.zeros_like(v) for v in hparams]
        y = auxiliary_model.parameters()
        phi = self._lower(auxiliary_model, auxiliary_model.last - 1, ll_feed_dict, ul_feed_dict, y)
        gradient = autodiff.grad(phi, y)
        jt.sync(gradient)
        solution = self.solve(lambda v: autodiff.vjp(gradient, y, v), by_y, auxiliary_model.learning_rates)
        through_y = autodiff.vjp(gradient, hparams, solution.vector)
        name = type(self).__name__.lower()
        return self._result(
            auxiliary_model,
            loss,
            functional.axpy(-1.0, through_y, by_x),
            by_y,
            diagnostics={f"{name}_iterations": float(solution.iterations), f"{name}_residual": solution.residual},
        )

"""Operators that finish the hypergradient from the upper gradients at the last iterate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jboat import autodiff
from jboat.levels import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.step_jacobian import StepJacobian
from jboat.trajectory import Trajectory
import jittor as jt


class UpperGradients(NamedTuple):
    """grad_x F and grad_y F at the last iterate in use."""

    by_x: list[jt.Var]
    by_y: list[jt.Var]


class Terminal(HyperGradientOperator):
    """Finishes the hypergradient; see :meth:`total`."""

    def total(
        self,
        trajectory: Trajectory,
        upper: UpperGradients,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        hparams: Sequence[jt.Var] | None,
    ) -> tuple[list[jt.Var], dict[str, float]]:
        """The hypergradient, and numbers about how it was found."""
        raise NotImplementedError(f"{type(self).__name__} must define total()")

    def _last_step(
        self,
        trajectory: Trajectory,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        *,
        settled: bool = False,
    ) -> StepJacobian:
        """The derivative of the lower optimizer's last step, which leads to the last iterate in use."""
        step = trajectory.last - 1
        before = trajectory.parameters(step)
        phi = self._lower(trajectory, step, ll_feed_dict, ul_feed_dict, before, decay=False)
        return StepJacobian(trajectory, step, autodiff.grad(phi, before), settled=settled)

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
        """Compute the hypergradient.

        Args:
            ll_feed_dict: the lower batch, or one per inner step.
            ul_feed_dict: the upper batch.
            auxiliary_model: the trajectory, of at least one step.
            max_loss_iter: unused: PTT hands on a trajectory that ends there.
            hyper_gradient_finished: must be False.
            next_operation: must be None.
            kwargs: ``hparams``, the variables to differentiate by, which IAD sets to y_0 for CG and NS; by default
                ``ul_var``. Others are ignored.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished`` and ``hyper_gradient``; with DI ``ll_init_gradient``; with CG
            and NS ``diagnostics``, the solver's iterations and residual.

        Raises:
            AssertionError: if the hypergradient is finished already or another operator follows.
        """
        self._require_terminal(next_operation, hyper_gradient_finished)
        loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
        upper = UpperGradients(by_x, by_y)
        hparams: Sequence[jt.Var] | None = kwargs.get("hparams")
        gradient, diagnostics = self.total(auxiliary_model, upper, ll_feed_dict, ul_feed_dict, hparams)
        return self._result(auxiliary_model, loss, gradient, by_y, diagnostics=diagnostics)

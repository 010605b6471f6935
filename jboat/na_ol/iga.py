"""IGA: implicit gradient approximation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat import autodiff, functional
from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@register_operator("na")
class IGA(HyperGradientOperator):
    """``grad_x F - (<grad_y F, grad_y phi> / ||grad_y phi||^2) grad_x phi``, from first derivatives alone.

    The quotient is undefined, and the result NaN, where ``grad_y phi`` vanishes exactly.

    Source: Liu, Gao, Liu and Fan, "Learning with constraint learning: new perspective, solution strategy and various
    applications", IEEE TPAMI 2024.
    """

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
            auxiliary_model: the trajectory.
            max_loss_iter: unused: PTT hands on a trajectory that ends there.
            hyper_gradient_finished: must be False.
            next_operation: must be None.
            kwargs: ignored.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished`` and ``hyper_gradient``; with DI ``ll_init_gradient``.

        Raises:
            AssertionError: if the hypergradient is finished already or another operator follows.
        """
        self._require_terminal(next_operation, hyper_gradient_finished)
        loss, by_x, by_y = self._upper(auxiliary_model, ul_feed_dict)
        y = auxiliary_model.parameters()
        phi = self._lower(auxiliary_model, auxiliary_model.last - 1, ll_feed_dict, ul_feed_dict, y)
        gradients = autodiff.grad(phi, [*self.ul_var, *y])
        phi_by_x, phi_by_y = gradients[: len(self.ul_var)], gradients[len(self.ul_var) :]
        ratio = functional.dot(by_y, phi_by_y) / functional.dot(phi_by_y, phi_by_y)
        return self._result(auxiliary_model, loss, functional.axpy(-ratio, phi_by_x, by_x), by_y)

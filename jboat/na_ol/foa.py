"""FOA: first-order approximation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@register_operator("na")
class FOA(HyperGradientOperator):
    """Inner gradients are constants, so that ``dy_K/dy_0 = I`` (FOMAML).

    Source: Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", arXiv 1803.02999, 2018.
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
        """Take the second-order terms out of the trajectory.

        Returns:
            The arguments of the next operator, with the first-order trajectory as ``auxiliary_model``.

        Raises:
            AssertionError: if the hypergradient is finished or nothing follows.
        """
        self._require_modifier(next_operation, hyper_gradient_finished)
        return {
            **kwargs,
            "ll_feed_dict": ll_feed_dict,
            "ul_feed_dict": ul_feed_dict,
            "auxiliary_model": auxiliary_model.with_constant_gradients(),
            "max_loss_iter": max_loss_iter,
            "hyper_gradient_finished": False,
        }

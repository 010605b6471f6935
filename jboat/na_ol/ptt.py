"""PTT: pessimistic trajectory truncation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@register_operator("na")
class PTT(HyperGradientOperator):
    """The trajectory ends at y_{k*}, the iterate with the largest upper loss.

    The lower loop finds ``k* = argmax F(x, y_k)`` over k in 1..K (M+1..K with RGT; the smallest on ties) and passes it
    as ``max_loss_iter``.

    Source: Liu, Liu, Zeng and Zhang, "Towards gradient-based bilevel optimization with non-convex followers and
    beyond", NeurIPS 2021.
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
        """End the trajectory at inner step ``max_loss_iter``.

        Returns:
            The arguments of the next operator, with the shortened trajectory as ``auxiliary_model``.

        Raises:
            AssertionError: if the hypergradient is finished, nothing follows, or ``max_loss_iter`` is not positive.
            ValueError: if ``max_loss_iter`` exceeds the number of lower steps.
        """
        self._require_modifier(next_operation, hyper_gradient_finished)
        assert max_loss_iter > 0, (
            f"PTT needs max_loss_iter > 0, the step with the largest upper loss; got {max_loss_iter}"
        )
        return {
            **kwargs,
            "ll_feed_dict": ll_feed_dict,
            "ul_feed_dict": ul_feed_dict,
            "auxiliary_model": auxiliary_model.until(max_loss_iter),
            "max_loss_iter": max_loss_iter,
            "hyper_gradient_finished": False,
        }

"""Operators that change what the next operator sees of the trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat.levels import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.trajectory import Trajectory


class Modifier(HyperGradientOperator):
    """Hands the next operator another view of the trajectory; see :meth:`modified`."""

    def modified(self, trajectory: Trajectory, max_loss_iter: int) -> Trajectory:
        """The trajectory that the next operator gets."""
        raise NotImplementedError(f"{type(self).__name__} must define modified()")

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
        """Prepare the hypergradient.

        Args:
            ll_feed_dict: the lower batch, or one per inner step; handed through.
            ul_feed_dict: the upper batch; handed through.
            auxiliary_model: the trajectory.
            max_loss_iter: PTT's inner step; handed through.
            hyper_gradient_finished: must be False.
            next_operation: the operator that follows; must be given.
            kwargs: handed through.

        Returns:
            The arguments of the next operator, with the modified trajectory as ``auxiliary_model``.

        Raises:
            AssertionError: if the hypergradient is finished already, nothing follows, or an option is missing.
        """
        self._require_modifier(next_operation, hyper_gradient_finished)
        return {
            **kwargs,
            "ll_feed_dict": ll_feed_dict,
            "ul_feed_dict": ul_feed_dict,
            "auxiliary_model": self.modified(auxiliary_model, max_loss_iter),
            "max_loss_iter": max_loss_iter,
            "hyper_gradient_finished": False,
        }

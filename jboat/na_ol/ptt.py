"""PTT: pessimistic trajectory truncation."""

from __future__ import annotations

from jboat.na_ol.modifier import Modifier
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@register_operator("na", cost="K upper losses")
class PTT(Modifier):
    """The trajectory ends at y_{k*}, the iterate with the largest upper loss.

    The lower loop finds ``k* = argmax F(x, y_k)`` over k in 1..K (M+1..K with RGT; the smallest on ties) and passes it
    as ``max_loss_iter``.

    Source: Liu, Liu, Zeng and Zhang, "Towards gradient-based bilevel optimization with non-convex followers and
    beyond", NeurIPS 2021.
    """

    def modified(self, trajectory: Trajectory, max_loss_iter: int) -> Trajectory:
        """The trajectory ending at inner step ``max_loss_iter``.

        Raises:
            AssertionError: if ``max_loss_iter`` is not positive.
            ValueError: if it exceeds the number of lower steps.
        """
        assert max_loss_iter > 0, (
            f"PTT needs max_loss_iter > 0, the step with the largest upper loss; got {max_loss_iter}"
        )
        return trajectory.until(max_loss_iter)

"""PTT: pessimistic trajectory truncation."""

from __future__ import annotations

from collections.abc import Callable
import math

from jboat.capabilities import UpperCapabilities
from jboat.na_ol.modifier import Modifier
from jboat.out_of_place import require
from jboat.registry import register_operator
from jboat.trajectory import Trajectory
import jittor as jt


class WorstIterate:
    """Finds the iterate with the largest upper loss, the first of them on ties.

    Args:
        upper_loss: F at the last iterate of a trajectory.
    """

    def __init__(self, upper_loss: Callable[[Trajectory], jt.Var]) -> None:
        self._upper_loss = upper_loss
        self._waiting: dict[int, jt.Var] = {}
        self._worst = 0, -math.inf

    def look_at(self, step: int, trajectory: Trajectory) -> None:
        """Take F at y_step, the last iterate of ``trajectory``."""
        self._waiting[step] = self._upper_loss(trajectory)

    def chosen(self) -> int:
        """The inner step with the largest F, NaN before any number; 0 where none was looked at."""
        for step, loss in self._waiting.items():
            value, (worst, largest) = loss.item(), self._worst
            if worst == 0 or value > largest or (math.isnan(value) and not math.isnan(largest)):
                self._worst = step, value
        self._waiting.clear()
        return self._worst[0]


@register_operator("na", cost="K upper losses")
class PTT(Modifier):
    """The trajectory ends at y_{k*}, the iterate with the largest upper loss.

    The lower loop finds ``k* = argmax F(x, y_k)`` over k in 1..K (M+1..K with RGT; the smallest on ties) and passes it
    as ``max_loss_iter``.

    Source: Liu, Liu, Zeng and Zhang, "Towards gradient-based bilevel optimization with non-convex followers and
    beyond", NeurIPS 2021.
    """

    capabilities = UpperCapabilities(chooses_iterate=WorstIterate)

    def modified(self, trajectory: Trajectory, max_loss_iter: int) -> Trajectory:
        """The trajectory ending at inner step ``max_loss_iter``.

        Raises:
            AssertionError: if ``max_loss_iter`` is not positive.
            ValueError: if it exceeds the number of lower steps.
        """
        require(
            max_loss_iter > 0,
            f"PTT needs max_loss_iter > 0, the step with the largest upper loss; got {max_loss_iter}",
        )
        return trajectory.until(max_loss_iter)

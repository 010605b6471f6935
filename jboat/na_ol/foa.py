"""FOA: first-order approximation."""

from __future__ import annotations

from jboat.capabilities import UpperCapabilities
from jboat.na_ol.modifier import Modifier
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@register_operator("na", cost="none; IAD after it needs one upper gradient")
class FOA(Modifier):
    """Inner gradients are constants, so that ``dy_K/dy_0 = I`` (FOMAML).

    Source: Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", arXiv 1803.02999, 2018.
    """

    capabilities = UpperCapabilities(constant_gradients=True, stacks_tasks=True)
    zero_because = "FOA takes inner gradients as constants"

    def modified(self, trajectory: Trajectory, max_loss_iter: int) -> Trajectory:
        """The trajectory without its second-order terms."""
        return trajectory.with_constant_gradients()

"""IGA: implicit gradient approximation."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import autodiff, functional
from jboat.lower_objective import Batch
from jboat.na_ol.terminal import Terminal, UpperGradients
from jboat.registry import register_operator
from jboat.trajectory import Trajectory
import jittor as jt


@register_operator("na", cost="one gradient; memory of one step")
class IGA(Terminal):
    """``grad_x F - (<grad_y F, grad_y phi> / ||grad_y phi||^2) grad_x phi``, from first derivatives alone.

    The quotient is undefined, and the result NaN, where ``grad_y phi`` vanishes exactly.

    Source: Liu, Gao, Liu and Fan, "Learning with constraint learning: new perspective, solution strategy and various
    applications", IEEE TPAMI 2024.
    """

    def total(
        self,
        trajectory: Trajectory,
        upper: UpperGradients,
        ll_feed_dict: Batch | Sequence[Batch],
        ul_feed_dict: Batch,
        hparams: Sequence[jt.Var] | None,
    ) -> tuple[list[jt.Var], dict[str, float]]:
        """See :meth:`Terminal.total`."""
        y = trajectory.parameters()
        phi = self._lower(trajectory, trajectory.last - 1, ll_feed_dict, ul_feed_dict, y)
        gradients = autodiff.grad(phi, [*self.ul_var, *y])
        phi_by_x, phi_by_y = gradients[: len(self.ul_var)], gradients[len(self.ul_var) :]
        ratio = functional.dot(upper.by_y, phi_by_y) / functional.dot(phi_by_y, phi_by_y)
        return functional.axpy(ratio, phi_by_x, upper.by_x, factor=-1.0), {}

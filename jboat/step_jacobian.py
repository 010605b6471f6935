"""The derivative of one lower step, by the iterate that it starts from and by the gradient that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from jboat import autodiff, functional
from jboat.trajectory import Trajectory
import jittor as jt

_MIXED = 1e-3
"""How much of a product, relative to its norm, may not come from the diagonal before entries count as mixed."""


class StepJacobian:
    """``y_{k+1} = T(y_k, g)`` of the lower optimizer, transposed and times vectors; its state before the step is held.

    Args:
        trajectory: whose step it is.
        step: the inner step k, from 0.
        gradients: g, the gradient of phi at y_k without weight decay, which the optimizer adds; one Var per variable.
        settled: whether the state follows y and g instead; see :meth:`Trajectory.step_from`.
    """

    def __init__(
        self, trajectory: Trajectory, step: int, gradients: Sequence[jt.Var], *, settled: bool = False
    ) -> None:
        self._gradients = functional.cut(gradients)
        self._moved, self._parameters = trajectory.step_from(step, self._gradients, settled=settled)
        jt.sync(self._moved)

    def by_gradients(self, vector: Sequence[jt.Var]) -> list[jt.Var]:
        """``(dT/dg)' v``, detached and computed."""
        return functional.cut(autodiff.vjp(self._moved, self._gradients, vector))

    def by_parameters(self, vector: Sequence[jt.Var]) -> list[jt.Var]:
        """``(dT/dy)' v``, the gradient g held; detached, not computed yet."""
        return functional.detached(autodiff.vjp(self._moved, self._parameters, vector))

    def by_upper(self, variables: Sequence[jt.Var], vector: Sequence[jt.Var]) -> list[jt.Var]:
        """``(dT/dx)' v``, y and g held; zeros where T depends on x by g alone. Detached, not computed yet."""
        return functional.detached(autodiff.vjp(self._moved, variables, vector))

    def diagonals(self) -> tuple[list[jt.Var], list[jt.Var]]:
        """The diagonals of dT/dy and dT/dg, where T moves every entry by itself."""
        ones = [jt.ones_like(v) for v in self._parameters]
        by_both = autodiff.vjp(self._moved, [*self._parameters, *self._gradients], ones)
        count = len(self._parameters)
        by_parameters, by_gradients = functional.cut_lists(by_both[:count], by_both[count:])
        return by_parameters, by_gradients

    def mixes_entries(self, by_gradients: Sequence[jt.Var], probe: Sequence[jt.Var]) -> bool:
        """Whether the step of an entry depends on other entries, as where gradients are clipped by their norm.

        Args:
            by_gradients: the diagonal of dT/dg.
            probe: a vector that the product is tried with.
        """
        product = self.by_gradients(probe)
        expected = [d * v for d, v in zip(by_gradients, probe, strict=True)]
        apart = functional.norm(functional.cut(functional.axpy(-1.0, expected, product)))
        return apart > _MIXED * functional.norm(product)

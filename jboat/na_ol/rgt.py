"""RGT: reverse gradient truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jboat import registry
from jboat.lower_objective import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@dataclass(frozen=True)
class RGTOptions:
    """Options of RGT.

    Attributes:
        truncate_iter: M, the number of first lower steps that leave no graph; set it between 1 and lower_iters - 1.
    """

    truncate_iter: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.truncate_iter, int) or self.truncate_iter < 0:
            raise ValueError(f"solver_config['RGT']['truncate_iter'] must be an integer, got {self.truncate_iter!r}")


@register_operator("na", options=RGTOptions)
class RGT(HyperGradientOperator):
    """The first M lower steps are constant: the next operator differentiates steps M..K alone.

    With DI the gradient by y_0 is that of the whole trajectory all the same; its first M steps are rebuilt for it.

    Source: Shaban, Cheng, Hatch and Boots, "Truncated back-propagation for bilevel optimization", AISTATS 2019.
    """

    @property
    def truncate_iter(self) -> int:
        """M, the number of steps without a graph."""
        return int(registry.options(self.solver_config, "RGT").truncate_iter)

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
        """Cut the trajectory at inner step M.

        Returns:
            The arguments of the next operator, with the cut trajectory as ``auxiliary_model``.

        Raises:
            AssertionError: if the hypergradient is finished, nothing follows, or ``truncate_iter`` is not positive.
        """
        self._require_modifier(next_operation, hyper_gradient_finished)
        assert self.truncate_iter > 0, "RGT needs solver_config['RGT']['truncate_iter'] > 0, less than lower_iters"
        return {
            **kwargs,
            "ll_feed_dict": ll_feed_dict,
            "ul_feed_dict": ul_feed_dict,
            "auxiliary_model": auxiliary_model.since(self.truncate_iter),
            "max_loss_iter": max_loss_iter,
            "hyper_gradient_finished": False,
        }

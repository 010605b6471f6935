"""IAD: initialisation-based automatic differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jboat.capabilities import UpperCapabilities
from jboat.levels import Batch
from jboat.na_ol.hyper_gradient import HyperGradientOperator
from jboat.registry import register_operator
from jboat.trajectory import Trajectory


@dataclass(frozen=True)
class IADOptions:
    """Options of IAD.

    Attributes:
        proximal: lam of implicit MAML, positive. It applies when CG or NS follows IAD: every lower step then minimises
            ``phi + lam / 2 ||y - y_0||^2``.
    """

    proximal: float = 1.0

    def __post_init__(self) -> None:
        if not self.proximal > 0.0:
            raise ValueError(f"solver_config['IAD']['proximal'] must be positive, got {self.proximal}")


def proximal(options: IADOptions) -> float:
    """Lam of implicit MAML."""
    return options.proximal


@register_operator("na", options=IADOptions, cost="K Hessian-vector products; memory of K steps")
class IAD(HyperGradientOperator):
    """``dF(y_K)/dy_0``, returned for ``ul_var``: the initialisation is the upper-level variable (MAML).

    After RGT the derivative is by y_M, from which steps are tracked. When CG or NS follows, IAD hands them y_0 as the
    variable to differentiate by (implicit MAML).

    Sources: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017;
    Rajeswaran, Finn, Kakade and Levine, "Meta-learning with implicit gradients", NeurIPS 2019.
    """

    capabilities = UpperCapabilities(starts_from_x=True, proximal=proximal, pulls_back=True, stacks_tasks=True)

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
        """Compute the hypergradient, or hand y_0 to CG or NS.

        Returns:
            ``upper_loss``, ``hyper_gradient_finished`` and ``hyper_gradient`` when nothing follows; otherwise the
            arguments of the next operator, ``hparams`` being y_0.

        Raises:
            AssertionError: if the hypergradient is finished already.
        """
        if next_operation is not None:
            self._require_modifier(next_operation, hyper_gradient_finished)
            return {
                **kwargs,
                "ll_feed_dict": ll_feed_dict,
                "ul_feed_dict": ul_feed_dict,
                "auxiliary_model": auxiliary_model,
                "max_loss_iter": max_loss_iter,
                "hyper_gradient_finished": False,
                "hparams": auxiliary_model.parameters(0),
            }
        self._require_terminal(next_operation, hyper_gradient_finished)
        loss, _, by_y = self._upper(auxiliary_model, ul_feed_dict)
        _, by_start = auxiliary_model.pullback(by_y, [])
        return self._result(auxiliary_model, loss, by_start, by_y)

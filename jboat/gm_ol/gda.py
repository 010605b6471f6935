"""GDA: gradient descent aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jboat.capabilities import LowerCapabilities
from jboat.gm_ol.dynamical_system import LowerLevelOperator
from jboat.out_of_place import require
from jboat.registry import register_operator


@dataclass(frozen=True)
class GDAOptions:
    """Options of GDA.

    Attributes:
        alpha_init: weight of the upper objective at inner step 0, strictly between 0 and 1.
        alpha_decay: factor of the weight from one inner step to the next, in (0, 1].
    """

    alpha_init: float = 0.5
    alpha_decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha_init < 1.0:
            raise ValueError(f"solver_config['GDA']['alpha_init'] must lie strictly in (0, 1), got {self.alpha_init}")
        if not 0.0 < self.alpha_decay <= 1.0:
            raise ValueError(f"solver_config['GDA']['alpha_decay'] must lie in (0, 1], got {self.alpha_decay}")


def alpha(options: GDAOptions, step: int) -> float:
    """The weight of the upper objective at inner step ``step``, from 0."""
    return options.alpha_init * options.alpha_decay**step


@register_operator("gm", options=GDAOptions, cost="one upper gradient more in every lower step")
class GDA(LowerLevelOperator):
    """Lower steps on ``alpha_k F + (1 - alpha_k) f`` instead of f.

    The fixed point of the lower steps is biased: it is that of the last step's mixture, of weight
    ``alpha_init * alpha_decay^(K-1)``, and lies off the solution of f towards smaller F by a distance of order alpha.
    Unless alpha vanishes over the steps, F comes out too small; ``lower_gradient_norm`` shows it.

    Source: Liu, Mu, Yuan, Zeng and Zhang, "A generic first-order algorithmic framework for bi-level programming beyond
    lower-level singleton", ICML 2020.
    """

    capabilities = LowerCapabilities(weight=alpha, stacks_tasks=True)

    def optimize(self, next_operation: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Hand the aggregated objective to the next operator.

        Raises:
            AssertionError: if nothing follows.
        """
        require(next_operation is not None, "GDA chooses the objective of lower steps: put NGD or DM after it")
        return {**kwargs, "lower_objective": self.lower_objective(aggregated=True)}

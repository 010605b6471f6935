"""DI: dynamic initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jboat import functional
from jboat.capabilities import LowerCapabilities
from jboat.gm_ol.dynamical_system import LowerLevelOperator
from jboat.out_of_place import require
from jboat.registry import register_operator
import jittor as jt


@dataclass(frozen=True)
class DIOptions:
    """Options of DI.

    Attributes:
        lr: step size of the learned initialisation, at least 0.
    """

    lr: float = 0.01

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"solver_config['DI']['lr'] must be at least 0, got {self.lr}")


def next_start(options: DIOptions, start: Sequence[jt.Var], gradient: Sequence[jt.Var]) -> list[jt.Var]:
    """The learned y_0 after an outer step, detached.

    Args:
        options: the options of DI.
        start: y_0, one Var per lower-level variable.
        gradient: dF(y_K)/dy_0, likewise.
    """
    return functional.detached(functional.axpy(-options.lr, gradient, start))


@register_operator("gm", options=DIOptions, cost="a pass back through the K steps, which RAD has anyway")
class DI(LowerLevelOperator):
    """The initialisation y_0 is learned: after each outer step it moves by ``-lr dF(y_K)/dy_0``.

    Source: Liu, Liu, Zeng and Zhang, "Towards gradient-based bilevel optimization with non-convex followers and
    beyond", NeurIPS 2021.
    """

    capabilities = LowerCapabilities(next_start=next_start, stacks_tasks=True)

    def optimize(self, next_operation: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Ask the next operator for a trajectory that can be differentiated by y_0.

        Raises:
            AssertionError: if nothing follows.
        """
        require(next_operation is not None, "DI differentiates the lower steps: put NGD after it")
        return {**kwargs, "keep_graph": True}

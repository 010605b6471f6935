"""Chains of lower-level operators."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from typing import Any

from jboat import registry
from jboat.gm_ol.dynamical_system import DynamicalSystem
from jboat.registry import DynamicalSystemRules as DynamicalSystemRules


class SequentialDS:
    """Runs lower-level operators one after another.

    Args:
        ordered_instances: the operators in the order to run.
        custom_order: their names in that order.
    """

    def __init__(self, ordered_instances: Sequence[DynamicalSystem], custom_order: Sequence[str]) -> None:
        self.gradient_instances = list(ordered_instances)
        self.custom_order = list(custom_order)

    def optimize(self, **kwargs: Any) -> list[dict[str, Any]]:
        """Run the chain; each operator gets what the one before it returned.

        Returns:
            One dict per operator, in the order run; the last one holds the trajectory.
        """
        results: list[dict[str, Any]] = []
        for operator, following in zip(self.gradient_instances, [*self.custom_order[1:], None], strict=True):
            kwargs = operator.optimize(**kwargs, next_operation=following)
            results.append(kwargs)
        return results


def makes_functional_dynamical_system(custom_order: Sequence[str], **kwargs: Any) -> SequentialDS:
    """Build a lower-level chain.

    Args:
        custom_order: operator names in any order.
        kwargs: the arguments of each operator's constructor. A ``solver_config`` without ``gm_op`` gets the chain's.

    Raises:
        TypeError: if ``custom_order`` is not a list of names.
        ValueError: for an unknown or repeated name, or a chain outside the grammar.
    """
    order = registry.order_gm(custom_order)
    known = registry.operators("gm")
    solver_config = kwargs.pop("solver_config", {})
    if "gm_op" not in solver_config:
        solver_config = ChainMap(solver_config, {"gm_op": order})
    return SequentialDS([known[name].cls(**kwargs, solver_config=solver_config) for name in order], order)

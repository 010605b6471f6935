"""Chains of lower-level operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat import registry
from jboat.gm_ol.dynamical_system import DynamicalSystem
from jboat.ordered_operators import OrderedOperators, instances
from jboat.registry import DynamicalSystemRules as DynamicalSystemRules


class SequentialDS(OrderedOperators):
    """Runs lower-level operators one after another.

    Args:
        ordered_instances: the operators in the order to run.
        custom_order: their names in that order.
    """

    def __init__(self, ordered_instances: Sequence[DynamicalSystem], custom_order: Sequence[str]) -> None:
        super().__init__(ordered_instances, custom_order)

    def optimize(self, **kwargs: Any) -> list[dict[str, Any]]:
        """Run the chain; each operator gets what the one before it returned.

        Returns:
            One dict per operator, in the order run; the last one holds the trajectory.
        """
        return self.run("optimize", kwargs)


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
    return SequentialDS(instances("gm", order, kwargs), order)

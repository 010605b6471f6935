"""Chains of hypergradient operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jboat import registry
from jboat.na_ol.hyper_gradient import HyperGradient
from jboat.ordered_operators import OrderedOperators, instances
from jboat.registry import HyperGradientRules as HyperGradientRules


class SequentialHG(OrderedOperators):
    """Runs hypergradient operators one after another.

    Args:
        ordered_instances: the operators in the order to run.
        custom_order: their names in that order.
    """

    def __init__(self, ordered_instances: Sequence[HyperGradient], custom_order: Sequence[str]) -> None:
        super().__init__(ordered_instances, custom_order)

    def compute_gradients(self, **kwargs: Any) -> list[dict[str, Any]]:
        """Run the chain; each operator gets what the one before it returned.

        Args:
            kwargs: ``ll_feed_dict``, ``ul_feed_dict``, ``auxiliary_model`` and, for PTT, ``max_loss_iter``.

        Returns:
            One dict per operator, in the order run; the last one holds the hypergradient.
        """
        return self.run("compute_gradients", kwargs)


def makes_functional_na_operation(custom_order: Sequence[str], **kwargs: Any) -> SequentialHG:
    """Build a hypergradient chain.

    Args:
        custom_order: operator names in any order.
        kwargs: the arguments of each operator's constructor. A ``solver_config`` without ``na_op`` gets the chain's.

    Raises:
        TypeError: if ``custom_order`` is not a list of names.
        ValueError: for an unknown or repeated name, or a chain outside the grammar.
    """
    order = registry.order_na(custom_order)
    return SequentialHG(instances("na", order, kwargs), order)


def validate_and_adjust_order(custom_order: Sequence[str], gradient_order: Sequence[Sequence[str]]) -> list[str]:
    """Sort operator names by the rules.

    Args:
        custom_order: operator names in any order.
        gradient_order: groups of names from first to last, such as ``HyperGradientRules.get_gradient_order()``.

    Raises:
        TypeError: if ``custom_order`` is not a list of names.
        ValueError: for an unknown or a repeated name.
    """
    return registry.adjusted_order(custom_order, gradient_order, "custom_order")

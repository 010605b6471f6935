"""What both kinds of chains share: operators that are made, and run, in their order."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

from jboat import registry
from jboat.registered_operator import Kind


class OrderedOperators:
    """Operators that run one after another.

    Args:
        ordered_instances: the operators in the order to run.
        custom_order: their names in that order.
    """

    def __init__(self, ordered_instances: Sequence[Any], custom_order: Sequence[str]) -> None:
        self.gradient_instances = list(ordered_instances)
        self.custom_order = list(custom_order)

    def run(self, method: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Call a method of every operator; each gets what the one before it returned, and the next one's name.

        Args:
            method: the method's name.
            arguments: what the first operator gets.

        Returns:
            One dict per operator, in the order run.
        """
        results: list[dict[str, Any]] = []
        for operator, following in zip(self.gradient_instances, [*self.custom_order[1:], None], strict=True):
            arguments = getattr(operator, method)(**arguments, next_operation=following)
            results.append(arguments)
        return results


def instances(kind: Kind, order: Sequence[str], arguments: Mapping[str, Any]) -> list[Any]:
    """The operators of a chain.

    Args:
        kind: theirs.
        order: their names in the order to run.
        arguments: of each one's constructor. A ``solver_config`` that does not name this kind's chain gets ``order``.
    """
    solver_config, key = arguments.get("solver_config", {}), f"{kind}_op"
    if key not in solver_config:
        solver_config = ChainMap(solver_config, {key: order})
    known = registry.operators(kind)
    return [known[name].cls(**{**arguments, "solver_config": solver_config}) for name in order]

"""The base class of the lower-level operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jboat import functional, registry
from jboat.capabilities import LowerCapabilities
from jboat.chain_plan import ChainPlan
from jboat.levels import Objective
from jboat.lower_objective import LowerObjective
from jboat.warn_once import WarnOnce
import jittor as jt


class DynamicalSystem:
    """An operator of the lower-level dynamics.

    Args:
        ll_objective: f, called ``f(ll_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        ul_objective: F, called ``F(ul_feed_dict, ul_model, ll_model)``; returns a scalar Var.
        lower_loop: K, the number of lower steps.
        ul_model: the upper-level model.
        ll_model: the lower-level model.
        solver_config: ``gm_op``, ``na_op``, ``gda_loss`` and one section per operator.

    Attributes:
        capabilities: what it does besides running; None for those of the operator whose place it is registered for.
        plan: what the chains that it stands in want.
    """

    capabilities: ClassVar[LowerCapabilities | None] = None

    @staticmethod
    def check_options(options: Any, plan: ChainPlan, lower_iters: int) -> None:
        """Refuse options that do not fit the chains or the number of lower steps, in every operator its own.

        Args:
            options: the operator's options.
            plan: what the chains want.
            lower_iters: K.

        Raises:
            ValueError: if they do not fit.
        """

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        lower_loop: int,
        ul_model: jt.Module,
        ll_model: jt.Module,
        solver_config: Mapping[str, Any],
    ) -> None:
        self.ll_objective = ll_objective
        self.ul_objective = ul_objective
        self.lower_loop = lower_loop
        self.ul_model = ul_model
        self.ll_model = ll_model
        self.solver_config = solver_config
        self.plan, self._options = registry.plan_and_options(solver_config)
        self._operator = registry.registered(type(self))
        self.warn = WarnOnce()
        self.upper_statistics = functional.buffers(ul_model)

    def optimize(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run the operator; returns the keyword arguments of the next one, or the result of the chain."""
        raise NotImplementedError(f"{type(self).__name__} must define optimize()")

    @property
    def options(self) -> Any:
        """The operator's own options; None where it has none."""
        return None if self._operator is None else self._options.of(self._operator)

    def lower_objective(self, *, aggregated: bool) -> LowerObjective:
        """Phi of the lower steps: f or, where ``aggregated``, its mixture with F by this operator's weights."""
        return LowerObjective(
            self.ll_objective,
            self.ul_objective,
            self.ul_model,
            self.solver_config,
            aggregated=aggregated,
            aggregator=self._operator if self._operator is not None and self._operator.lower.weight else None,
        )


class LowerLevelOperator(DynamicalSystem):
    """A lower-level operator with the argument order of the public constructors: ``ll_model`` before ``ul_model``."""

    def __init__(
        self,
        ll_objective: Objective,
        ul_objective: Objective,
        ll_model: jt.Module,
        ul_model: jt.Module,
        lower_loop: int,
        solver_config: Mapping[str, Any],
    ) -> None:
        super().__init__(ll_objective, ul_objective, lower_loop, ul_model, ll_model, solver_config)

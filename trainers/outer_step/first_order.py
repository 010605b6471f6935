"""An outer step by a first-order method."""

from __future__ import annotations

from collections.abc import Sequence
import functools

from jboat import registry
from jboat.fo_ol.first_order import FirstOrder
from jboat.levels import batch_of_step
from jboat.outer_step import OuterStep
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.finiteness import lower_failure
from jboat.trainers.outer_step.method import Events, OuterMethod, Start


class FirstOrderMethod(OuterMethod):
    """One step of the method that ``fo_op`` names, in place of both chains."""

    @property
    def name(self) -> str:
        """See :class:`OuterMethod`."""
        assert self.problem.fo_op is not None
        return self.problem.fo_op

    @property
    def keeps(self) -> Sequence[str] | None:
        """See :class:`OuterMethod`."""
        keeps: Sequence[str] | None = getattr(registry.operators("fo")[self.name].cls, "keeps", None)
        return keeps

    @property
    def needs_second_derivatives(self) -> bool:
        """See :class:`OuterMethod`."""
        return bool(self._operator.needs_second_derivatives())

    def step(self, pair: Pair, start: Start, events: Events) -> OuterStep:
        """See :class:`OuterMethod`."""
        operator = self._operator
        auxiliary = dict(start.auxiliary) or None
        events.call("on_hypergradient_start")
        with events.timed("hypergradient"), operator.advancing_statistics():
            found = operator.optimize(batch_of_step(pair[0], 0), batch_of_step(pair[1], 0), start.step - 1, auxiliary)
        found.upper_loss_at = [] if found.upper_loss_after_step else self.problem.ll_var
        found.failure = lower_failure(self.name, start.step, 1, found.lower_loss, found.ll_parameters)
        events.call("on_hypergradient_end", found)
        return found

    @functools.cached_property
    def _operator(self) -> FirstOrder:
        problem = self.problem
        operator: FirstOrder = registry.operators("fo")[self.name].cls(
            **problem.operator_arguments(), ll_var=problem.ll_var, ul_var=problem.ul_var, lower_loop=problem.lower_iters
        )
        return operator

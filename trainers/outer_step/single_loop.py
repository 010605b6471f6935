"""An outer step by a stochastic single-loop method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import functools

from jboat import registry
from jboat.levels import batches_of_step
from jboat.outer_step import OuterStep
from jboat.sl_ol.batches import Counts, StepBatches
from jboat.sl_ol.single_loop import SingleLoop
from jboat.trainers.data.step_batches import Pair
from jboat.trainers.outer_step.finiteness import lower_failure
from jboat.trainers.outer_step.method import Events, OuterMethod, Start
from jboat.trainers.outer_step.problem import Problem
import jittor as jt


class SingleLoopMethod(OuterMethod):
    """One step of the method that ``sl_op`` names, in place of both chains."""

    takes_lists = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.needs_fixed_batches = bool(self._class.needs_fixed_batches)

    @property
    def name(self) -> str:
        """See :class:`OuterMethod`."""
        assert self.problem.sl_op is not None
        return self.problem.sl_op

    @property
    def keeps(self) -> Collection[str] | None:
        """See :class:`OuterMethod`."""
        return self._operator.keeps

    def kept_like(self, name: str) -> Sequence[jt.Var] | None:
        """See :class:`OuterMethod`."""
        return self._operator.kept_like(name)

    @property
    def needs_second_derivatives(self) -> bool:
        """See :class:`OuterMethod`."""
        return bool(self._operator.needs_second_derivatives())

    def batches(self, step: int, of: Counts | None, kept: Mapping[str, list[jt.Var]]) -> Counts:
        """See :class:`OuterMethod`."""
        self.problem.begin_step()  # a schedule may have changed what decides it
        return self._operator.batches(step - 1, of, kept)

    def unfinished(self, auxiliary: Mapping[str, list[jt.Var]]) -> bool:
        """At the first step of a method that remembers: v starts at zero, and grad_x F alone is left."""
        return not auxiliary and self.keeps != {}

    def step(self, pair: Pair, start: Start, events: Events) -> OuterStep:
        """See :class:`OuterMethod`."""
        operator = self._operator
        batches = StepBatches(batches_of_step(pair[0]), batches_of_step(pair[1]), start.places)
        events.call("on_hypergradient_start")
        with events.timed("hypergradient"), operator.advancing_statistics():
            found = operator.optimize(batches, start.step - 1, start.auxiliary)
        found.failure = lower_failure(self.name, start.step, 1, found.lower_loss, found.ll_parameters)
        events.call("on_hypergradient_end", found)
        return found

    @property
    def _class(self) -> type[SingleLoop]:
        return registry.operators("sl")[self.name].cls

    @functools.cached_property
    def _operator(self) -> SingleLoop:
        problem = self.problem
        return self._class(
            **problem.operator_arguments(), ll_var=problem.ll_var, ul_var=problem.ul_var, lower_loop=problem.lower_iters
        )

"""The graphs of lower steps: when one is cut, kept, joined with its neighbours, and rebuilt.

A graph reaches from one iterate, a leaf, to the next one or, where steps are joined, to the tenth next. All of them,
whatever K is, then run the same compiled kernels, and one that was not kept is rebuilt from its iterate, which is kept
or come to again (:mod:`jboat.kept_iterates`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from jboat import functional, running_statistics
from jboat.backend import free_memory
from jboat.kept_iterates import KeptIterates, State
import jittor as jt

JOINED_STEPS = 10
"""How many steps share a graph. More save little time and make more kernels where K is no multiple of them."""

MOST_VARIABLES_TO_JOIN = 4
"""Steps of a model with more variables are worth more than what a cut costs, and joined they make more kernels."""

MOST_NUMBERS_TO_JOIN = 100_000
"""Steps of a model with more numbers in all variables together take more memory joined, and no less time."""


def is_small(variables: Sequence[jt.Var]) -> bool:
    """Whether steps of these variables are worth joining."""
    numbers = sum(v.numel() for v in variables)
    return len(variables) <= MOST_VARIABLES_TO_JOIN and numbers <= MOST_NUMBERS_TO_JOIN


class JoinedSteps:
    """Computes steps that follow each other: several of a small model at once, and those of others one by one.

    Args:
        small: whether steps are worth joining.

    Attributes:
        most: how many are computed in one run.
    """

    def __init__(self, *, small: bool) -> None:
        self.most = JOINED_STEPS if small else 1
        self._pending = 0
        self._values: list[jt.Var] = []
        self._others: list[jt.Var] = []

    @property
    def pending(self) -> bool:
        """Whether there are steps that were cut and not computed yet."""
        return self._pending > 0

    def cut(
        self, outputs: Sequence[jt.Var], *, alone: bool = False, together_with: Sequence[jt.Var] = ()
    ) -> list[jt.Var]:
        """What a step leads to as leaves, computed at once or with the steps that follow.

        Args:
            outputs: functions of what the last step led to.
            alone: whether the step, and those that are pending, must be computed at once.
            together_with: what is computed in the same run.
        """
        self._values = functional.detached(outputs)
        self._others += together_with
        self._pending += 1
        if alone or self._pending == self.most:
            self.settle()
        return self._values

    def settle(self) -> None:
        """Compute what is pending."""
        if self._pending:
            jt.sync([*self._values, *self._others])
            self._pending, self._others = 0, []


Rebuild: TypeAlias = "Callable[[int, list[jt.Var]], list[jt.Var]]"
"""Builds a step, given by its number, once more from leaves; returns functions of them."""


class Graph(NamedTuple):
    """Some steps, from ``start`` on: leaves in, functions of the leaves out."""

    start: int
    inputs: list[jt.Var]
    outputs: list[jt.Var]


class _Kept(NamedTuple):
    """The graph that leads to an iterate: where it starts, and what the iterate is with its history."""

    start: int
    outputs: list[jt.Var]


class StepGraphs:
    """The steps of one run, as leaves between graphs.

    Args:
        start: what the first step starts from: parameters and optimizer state in one list.
        small: whether steps are worth joining.
        rebuilt_at_once: how many steps are rebuilt at once where graphs were not kept, or more, since steps that were
            computed together are rebuilt as one graph.
        together_with: what changes with the steps, as running statistics do, and is computed with them.
    """

    def __init__(
        self,
        start: list[jt.Var],
        *,
        small: bool,
        rebuilt_at_once: int = 1,
        together_with: Sequence[jt.Var] = (),
    ) -> None:
        self._iterates = KeptIterates(State(start, running_statistics.noted(together_with)))
        self._kept: list[_Kept | None] = []  # one a step
        self._begins_run = bytearray()  # likewise: whether it is the first of those that were computed together
        self._small = small
        self._joined = JoinedSteps(small=small)
        self._rebuilt_at_once = rebuilt_at_once
        self._together_with = together_with
        self._draws_random_numbers = False
        self._alone = False
        self._returns = free_memory.Returns()

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._kept)

    def keep_few(self, iterates: int, *, steps: int, begin: int = 0) -> None:
        """Keep no graphs, and few iterates, of the steps that come; take steps again where others are asked for.

        Args:
            iterates: how many are kept of those from ``begin`` on, that one among them; besides, there are always the
                first and the last two.
            steps: how many steps will be taken. With others the result is the same, and takes longer.
            begin: the step from which graphs will be asked for.
        """
        self._iterates.keep_few(iterates, steps=steps, begin=begin)

    @property
    def keeps_few(self) -> bool:
        """Whether not all iterates are kept."""
        return self._iterates.few

    def hold(self, step: int) -> None:
        """Keep the last iterate, at ``step``, and the one before, until others are held."""
        self._iterates.hold(step)

    def leaves(self, step: int, rebuild: Rebuild | None = None) -> list[jt.Var]:
        """What the step starts from, and the one before leads to.

        Args:
            step: the step, from 0.
            rebuild: takes steps again where that is not kept.
        """
        origin, state = self._iterates.nearest(step)
        if origin < step:
            assert rebuild is not None, "not all iterates are kept, and nobody says how to come to them"
            state = self._come_to(step, origin, state, rebuild)
            self._iterates.asked_for(step, state)
        return state.leaves

    def inputs(self) -> list[jt.Var]:
        """What the next step is to be built from: leaves, or the last step with its graph, where they are joined."""
        kept = self._kept[-1] if self._joined.pending else None
        return kept.outputs if kept else self._iterates.last.leaves

    def add(
        self, outputs: list[jt.Var], *, keep: bool, join: bool = False, together_with: Sequence[jt.Var] = ()
    ) -> None:
        """Take a step that was built from :meth:`inputs`.

        Args:
            outputs: what it leads to.
            keep: whether to keep its graph. If not, it is rebuilt where it is asked for.
            join: whether it may be computed with its neighbours, and share its graph with them if graphs are kept;
                then call :meth:`settle` after the last one. Only small models' are, without random numbers.
            together_with: what is computed in the same run.
        """
        last, step = self._kept[-1] if self._joined.pending else None, len(self)
        keep = keep and not self.keeps_few
        self._begins_run.append(not self._joined.pending)
        self._kept.append(_Kept(last.start if last else step, outputs) if keep else None)
        self._alone = not join or self._draws_random_numbers
        if step == 0:
            self._iterates.plan(1 if self._alone else self._joined.most)
        statistics = [] if keep else running_statistics.noted(self._together_with)
        self._tidy()
        others = [*together_with, *self._together_with]
        self._iterates.add(State(self._joined.cut(outputs, alone=self._alone, together_with=others), statistics))

    def settle(self) -> None:
        """Compute the steps that were taken and not computed yet."""
        self._joined.settle()

    def _tidy(self) -> None:
        """Where few iterates are kept, give back what steps have left in the C library's reserve."""
        if self.keeps_few:
            self._returns.after_step()

    @contextmanager
    def watching_random_numbers(self) -> Iterator[None]:
        """Note whether the block draws random numbers, which happens when a graph is computed, not when it is built."""

        def note() -> None:
            self._draws_random_numbers = True

        from jboat.backend.replacements import random_numbers  # which starts Jittor

        self._draws_random_numbers = not random_numbers.can_be_noted()  # then nobody knows
        with random_numbers.noted(note):
            yield

    def backwards(self, start: int, end: int, *, tracked_from: int, rebuild: Rebuild) -> Iterator[Graph]:
        """The graphs from ``end`` back to ``start``, none of which has ``tracked_from`` in its midst."""
        if self.keeps_few:
            yield from self._backwards_from_few(start, end, tracked_from, rebuild)
            return
        while end > start:
            kept = self._kept[end - 1]
            if kept and kept.start >= start and not kept.start < tracked_from < end:
                yield Graph(kept.start, self.leaves(kept.start), kept.outputs)
                end = kept.start
                continue
            begin = max(start, kept.start if kept else end - self._rebuilt_at_once)
            while begin > start and not self._begins_run[begin]:
                begin -= 1
            begin = tracked_from if begin < tracked_from < end else begin
            bounds = [begin, *(k for k in range(begin + 1, end) if self._begins_run[k]), end]
            graphs = [self._rebuilt(a, b, self._iterates.nearest(a)[1], rebuild) for a, b in pairwise(bounds)]
            while graphs:
                yield graphs.pop()
            end = begin

    def _backwards_from_few(self, start: int, end: int, tracked_from: int, rebuild: Rebuild) -> Iterator[Graph]:
        for begin, keep in self._iterates.backwards(start, end):
            bounds = [begin, *([tracked_from] if begin < tracked_from < end else []), end]
            for a, b in reversed(list(pairwise(bounds))):
                origin, state = self._iterates.nearest(a)
                state = self._come_to(a, origin, state, rebuild, keep=keep)
                yield self._rebuilt(a, b, state, rebuild)
            self._tidy()
            end = begin

    def _come_to(self, step: int, origin: int, state: State, rebuild: Rebuild, *, keep: Sequence[int] = ()) -> State:
        """The state at ``step`` by the steps from that at ``origin``, of which those at ``keep`` are kept."""
        joined = JoinedSteps(small=self._small)
        for k in range(origin, step):
            outputs, statistics = self._once_more(k, state, rebuild)
            state = State(joined.cut(outputs, alone=self._alone, together_with=statistics), statistics)
            del outputs  # or the graphs of joined steps would be kept
            self._tidy()
            if k + 1 in keep:
                self._iterates.put(k + 1, state)
        joined.settle()
        return state

    def _once_more(self, step: int, state: State, rebuild: Rebuild) -> tuple[list[jt.Var], list[jt.Var]]:
        """What a step leads to, with its history, and the statistics after it."""
        with functional.preserved(self._together_with):
            if state.statistics:
                running_statistics.put(self._together_with, state.statistics)
            return rebuild(step, state.leaves), running_statistics.noted(self._together_with)

    def _rebuilt(self, begin: int, end: int, state: State, rebuild: Rebuild) -> Graph:
        """The steps from ``begin`` to ``end`` in one graph."""
        outputs, statistics = state
        for step in range(begin, end):
            outputs, statistics = self._once_more(step, State(outputs, statistics), rebuild)
        jt.sync(functional.detached(outputs))  # as JoinedSteps does, or kernels would be others, and so would bits
        return Graph(begin, state.leaves, outputs)

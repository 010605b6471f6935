"""The graphs of lower steps: when one is cut, kept, joined with its neighbours, and rebuilt.

A graph reaches from one iterate, a leaf, to the next one or, where steps are joined, to the tenth next. All of them,
whatever K is, then run the same compiled kernels, and one that was not kept is rebuilt from its iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from jboat import functional
from jboat.backend.replacements import dispatch
import jittor as jt

_RANDOM = (jt, "random")

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
    """

    def __init__(self, *, small: bool) -> None:
        self._most = JOINED_STEPS if small else 1
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
        if alone or self._pending == self._most:
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
        rebuilt_at_once: how many steps are rebuilt at once where graphs were not kept.
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
        self._leaves = [start]
        self._kept: list[_Kept | None] = []  # one a step
        self._joined = JoinedSteps(small=small)
        self._rebuilt_at_once = rebuilt_at_once
        self._together_with = together_with
        self._draws_random_numbers = False

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._kept)

    def leaves(self, step: int) -> list[jt.Var]:
        """What the step starts from, and the one before leads to."""
        return self._leaves[step]

    def inputs(self) -> list[jt.Var]:
        """What the next step is to be built from: leaves, or the last step with its graph, where they are joined."""
        kept = self._kept[-1] if self._joined.pending else None
        return kept.outputs if kept else self._leaves[-1]

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
        self._kept.append(_Kept(last.start if last else step, outputs) if keep else None)
        alone, others = not join or self._draws_random_numbers, [*together_with, *self._together_with]
        self._leaves.append(self._joined.cut(outputs, alone=alone, together_with=others))

    def settle(self) -> None:
        """Compute the steps that were taken and not computed yet."""
        self._joined.settle()

    @contextmanager
    def watching_random_numbers(self) -> Iterator[None]:
        """Note whether the block draws random numbers, which happens when a graph is computed, not when it is built."""
        draw = dispatch.current(*_RANDOM)

        def noted(*args: Any, **kwargs: Any) -> jt.Var:
            self._draws_random_numbers = True
            return draw(*args, **kwargs)

        self._draws_random_numbers = not dispatch.is_replaceable(*_RANDOM)  # then nobody knows
        with dispatch.replaced({_RANDOM: noted}):
            yield

    def backwards(self, start: int, end: int, *, tracked_from: int, rebuild: Rebuild) -> Iterator[Graph]:
        """The graphs from ``end`` back to ``start``, none of which has ``tracked_from`` in its midst."""
        while end > start:
            kept = self._kept[end - 1]
            if kept and kept.start >= start and not kept.start < tracked_from < end:
                yield Graph(kept.start, self._leaves[kept.start], kept.outputs)
                end = kept.start
                continue
            begin = end - 1 if kept else max(start, end - self._rebuilt_at_once)
            graphs = [self._rebuilt(step, rebuild) for step in range(begin, end)]
            while graphs:
                yield graphs.pop()
            end = begin

    def _rebuilt(self, step: int, rebuild: Rebuild) -> Graph:
        leaves = self._leaves[step]
        outputs = rebuild(step, leaves)
        jt.sync(outputs)
        return Graph(step, leaves, outputs)

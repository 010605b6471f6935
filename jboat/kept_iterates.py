"""Which iterates of a run of lower steps are kept: all, or few, between which the steps are taken again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jboat import binomial_schedule
import jittor as jt


class State(NamedTuple):
    """What a step starts from.

    Attributes:
        leaves: parameters and optimizer state.
        statistics: what else changes with the steps, such as running statistics; empty where nobody will want it.
    """

    leaves: list[jt.Var]
    statistics: list[jt.Var]


class KeptIterates:
    """The states of a run by their inner steps, from 0.

    The first, the last two, that from which the last run goes, and those that are held are always there. The others are
    all kept until :meth:`keep_few` says otherwise.

    Args:
        first: the state at step 0.
    """

    def __init__(self, first: State) -> None:
        self._states = {0: first}
        self._last = 0
        self._most, self._steps, self._begin = 0, 0, 0
        self._run = 1
        self._planned: frozenset[int] = frozenset()
        self._held: tuple[int, ...] = ()
        self._asked: tuple[int, State] | None = None

    def keep_few(self, most: int, *, steps: int, begin: int = 0) -> None:
        """Keep few of the states that come; see :meth:`StepGraphs.keep_few`."""
        self._most, self._steps, self._begin = most, steps, begin

    def plan(self, run: int) -> None:
        """Say that so many steps, from a multiple of this number on, are always taken together."""
        self._run = run
        if self.few:
            first = self._begin // run
            others = binomial_schedule.positions(first, -(-self._steps // run), self._most)
            self._planned = frozenset({self._begin, *(k * run for k in others)})

    @property
    def few(self) -> bool:
        """Whether not all are kept."""
        return self._most > 0

    @property
    def last(self) -> State:
        """The state after the last step taken."""
        return self._states[self._last]

    def add(self, state: State) -> None:
        """Take the state after one more step."""
        self._last += 1
        self._states[self._last] = state
        before = self._last - 2
        self._forget([before, before - before % self._run])

    def hold(self, step: int) -> None:
        """Keep the last state, at ``step``, and the one before until others are held."""
        before, self._held = self._held, (step - 1, step)
        self._forget([k for k in before if k < self._last - 1])

    def put(self, step: int, state: State) -> None:
        """Keep a state that was come to again."""
        self._states[step] = state

    def nearest(self, step: int) -> tuple[int, State]:
        """The state at ``step``, or the last one before it that there is, with its step."""
        if step in self._states:
            return step, self._states[step]
        found = max(k for k in self._states if k < step)
        if self._asked is not None and found < self._asked[0] <= step:
            return self._asked
        return found, self._states[found]

    def asked_for(self, step: int, state: State) -> None:
        """Remember a state that was come to again, until another one is."""
        if self.few and step not in self._states:
            self._asked = step, state

    def backwards(self, begin: int, end: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Where the runs of steps from ``end`` back to ``begin`` start, and what to keep on the way there.

        What no earlier run needs is forgotten on the way. A second way back is possible, and takes all steps from the
        first state again.
        """
        self._asked, run = None, self._run

        def start(k: int) -> int:
            return max(k * run, begin) if k >= begin // run else k * run

        there = [k // run for k in self._states if k < end and k == start(k // run)]
        legs = binomial_schedule.backwards({0, *there}, begin // run, -(-end // run), self._most)
        for leg in legs:
            step = start(leg.step)
            yield step, tuple(map(start, leg.keep))
            self._planned -= {k for k in self._planned if k >= step}
            self._forget([k for k in self._states if k >= step])

    def _forget(self, steps: list[int]) -> None:
        last = self._last
        always = (0, last, last - 1, (last - 1) // self._run * self._run, *self._held)
        for step in steps:
            if self.few and step not in always and step not in self._planned:
                self._states.pop(step, None)

"""Which iterates of a chain of steps to keep, so that it can be reversed from few: the binomial schedule.

To reverse a chain, its last step first, every step needs the iterate that it starts from. Where not all are kept, steps
are taken again from the last one that is. With ``kept`` iterates and each step taken at most ``r`` times, the longest
chain has ``binomial(kept + r, kept)`` steps, and no other schedule takes fewer.

Source: Griewank and Walther, "Algorithm 799: revolve", ACM Transactions on Mathematical Software 26, 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import comb
from typing import NamedTuple


class Leg(NamedTuple):
    """How to come to the iterate that a step starts from.

    Attributes:
        step: the step that is to be reversed.
        origin: the kept iterate from which steps are taken again, up to ``step``; ``step`` itself where that is kept.
        keep: the iterates to keep on the way.
    """

    step: int
    origin: int
    keep: tuple[int, ...]


def longest(kept: int, times: int) -> int:
    """How many steps can be reversed with so many kept iterates, the first among them, each taken so often at most."""
    return comb(kept + times, kept) if kept >= 0 and times >= 0 else 0


def times(steps: int, kept: int) -> int:
    """How often a step is taken at most, the first way included, before it is reversed."""
    found = 0
    while longest(kept, found) < steps:
        found += 1
    return found


def distance(steps: int, kept: int) -> int:
    """How far from a kept iterate the next one to be kept lies.

    Args:
        steps: how many steps are to be reversed from there, at least 2.
        kept: how many iterates can be kept, that one among them, at least 2.
    """
    repeats = times(steps, kept)
    before, least = longest(kept, repeats - 1), longest(kept, repeats - 2)
    if steps <= before + longest(kept - 2, repeats - 1):
        return max(1, least)
    if steps >= longest(kept, repeats) - longest(kept - 3, repeats):
        return before
    return steps - longest(kept - 1, repeats - 1) - longest(kept - 2, repeats - 1)


def positions(begin: int, end: int, kept: int) -> list[int]:
    """The iterates to keep on the way from one that is kept to the last step before ``end``, without the first.

    Args:
        begin: the first iterate.
        end: where the chain ends; the last step starts from the iterate before.
        kept: how many iterates can be kept, the first among them.
    """
    found = []
    while kept > 1 and end - begin > 1:
        begin += distance(end - begin, kept)
        kept -= 1
        if begin < end - 1:  # else it is reversed at once
            found.append(begin)
    return found


def backwards(kept: Iterable[int], begin: int, end: int, most: int) -> Iterator[Leg]:
    """How to come to all steps of a chain, the last one first.

    After each leg whoever asks forgets the kept iterates from ``step`` on.

    Args:
        kept: the iterates that are kept now, the one that the chain starts from among them.
        begin: the first step to be reversed.
        end: the step after the last one.
        most: how many iterates from ``begin`` on may be kept at a time.
    """
    stack = sorted(k for k in kept if k < end)
    for step in range(end - 1, begin - 1, -1):
        origin = stack[-1]
        first, free = origin, most - sum(k >= begin for k in stack) + 1
        keep = []
        if origin < begin < step:  # a chain whose own first iterate is not kept yet
            first, free, keep = begin, most, [begin]
        keep += positions(first, step + 1, free)
        yield Leg(step, origin, tuple(keep))
        stack = [k for k in [*stack, *keep] if k < step] or stack[:1]

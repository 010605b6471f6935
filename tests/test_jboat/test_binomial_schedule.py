"""The schedule takes as few steps as any can, keeps no more iterates than it may, and reverses every step once."""

import functools
from math import comb

from jboat import binomial_schedule
import pytest


@functools.cache
def fewest(steps, kept):
    """By dynamic programming over all places of the next kept iterate: what no schedule can beat."""
    if steps <= 1:
        return 0
    if kept == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(m, kept) + fewest(steps - m, kept - 1) for m in range(1, steps))


def by_formula(steps, kept):
    """How many steps are taken in all, where each is taken as often as that many kept iterates make it take."""
    repeats = binomial_schedule.times(steps, kept)
    return repeats * steps - binomial_schedule.longest(kept + 1, repeats - 1)


def run(steps, most, *, begin=0, end=None, planned=None):
    """Take all legs after a first way: how often each step is taken again, and how many iterates are kept at most.

    The first way ends with the iterate at ``steps - 1`` at hand, which does not count.
    """
    end = steps if end is None else end
    kept = {0, begin, *binomial_schedule.positions(begin, planned or steps, most), steps - 1}
    taken, reversed_steps, largest = [0] * steps, [], 0
    for leg in binomial_schedule.backwards(kept, begin, end, most):
        assert leg.origin in kept
        assert all(leg.origin < k < leg.step for k in leg.keep)
        for step in range(leg.origin, leg.step):
            taken[step] += 1
        kept |= set(leg.keep)
        largest = max(largest, sum(k >= begin for k in kept if k < min(end, steps - 1)))
        reversed_steps.append(leg.step)
        kept = {k for k in kept if k < leg.step} | {0}
    assert reversed_steps == list(range(end - 1, begin - 1, -1))
    return taken, largest


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 7])
def test_no_schedule_takes_fewer_steps_nor_does_this_one_keep_more(kept):
    for steps in [*range(1, 41), 56, 84, 85]:
        taken, largest = run(steps, kept)
        assert sum(taken) + steps - 1 == fewest(steps, kept) == by_formula(steps, kept)
        assert largest <= kept


@pytest.mark.parametrize(("steps", "kept"), [(10_000, 16), (1000, 10), (10_000, 2), (300, 300)])
def test_the_binomial_formula(steps, kept):
    """``r steps - binomial(kept + r, r - 1)`` with the least r that ``binomial(kept + r, kept)`` reaches the steps."""
    r = next(r for r in range(steps) if comb(kept + r, kept) >= steps)
    taken, largest = run(steps, kept)
    assert sum(taken) + steps - 1 == r * steps - comb(kept + r, r - 1)
    assert max(taken) + 1 <= r
    assert largest <= kept


def test_with_as_many_iterates_as_logarithms_so_many_repeats_are_enough():
    for power in range(2, 15):
        assert max(run(2**power, power)[0]) + 1 <= power


@pytest.mark.parametrize(
    ("begin", "end", "planned"), [(0, 7, None), (12, 40, None), (12, 30, None), (0, 40, 25), (5, 6, 3)]
)
def test_a_part_of_the_chain_and_one_that_was_planned_otherwise(begin, end, planned):
    _, largest = run(40, 4, begin=begin, end=end, planned=planned)
    assert largest <= 4


def test_a_chain_that_is_reversed_once_more():
    """Nothing but its first iterate is left then."""
    legs = list(binomial_schedule.backwards([0], 8, 20, 3))
    assert legs[0] == (19, 0, (8, *binomial_schedule.positions(8, 20, 3)))
    assert [leg.step for leg in legs] == list(range(19, 7, -1))

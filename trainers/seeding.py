"""Random numbers that depend on the seed and the step alone.

Jittor's generator can be seeded but not read, so a run is made repeatable by seeding it anew, from the run's seed and
the step, at fixed points.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import random

import jittor as jt
import numpy as np

_LIMIT = 2**31 - 1
_MASK = 2**64 - 1


def derived_seed(*parts: int) -> int:
    """A seed that is unrelated for unequal ``parts``; Jittor's generator needs that even for 1 and 2.

    The parts are mixed one after another by SplitMix64 (Steele, Lea and Flood 2014).
    """
    return functools.reduce(_mixed, parts, len(parts)) % _LIMIT


def derived_seeds(*parts: int) -> Callable[[int], int]:
    """``lambda last: derived_seed(*parts, last)`` with the common parts mixed once."""
    common = functools.reduce(_mixed, parts, len(parts) + 1)
    return lambda last: _mixed(common, last) % _LIMIT


def _mixed(state: int, part: int) -> int:
    state = (state ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return state ^ (state >> 31)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and Jittor."""
    jt.sync_all()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    jt.set_seed(derived_seed(seed))


def reseed_jittor(*parts: int) -> None:
    """Seed Jittor's generator for one point of a run."""
    jt.set_seed(derived_seed(*parts))


def drawn_seed() -> int:
    """A seed for a run that was given none, from numpy's generator, whose state is left as it was."""
    state = np.random.get_state()
    seed = int(np.random.randint(_LIMIT))
    np.random.set_state(state)
    return seed

"""Whether an objective draws random numbers that come otherwise when it is run again: numpy's and Python's global ones.

Jittor's generator is seeded before an objective is run again. Of the others' seeds nobody but the user knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import random
from typing import Any

import numpy as np


class DrawnAnew:
    """Looks once, since to ask the generators takes a tenth of a millisecond.

    Attributes:
        found: whether what was looked at has drawn from one of them.
    """

    def __init__(self) -> None:
        self._looked = False
        self.found = False

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look whether the block draws from them, unless an earlier one was looked at to its end."""
        if self._looked:
            yield
            return
        before = _generators()
        yield
        self._looked = True
        self.found = before != _generators()


def _generators() -> tuple[Any, ...]:
    return random.getstate(), _comparable(np.random.get_state(legacy=False))


def _comparable(state: Any) -> Any:
    """What a generator of numpy's tells of itself, with the bytes of arrays, which have no truth value."""
    if isinstance(state, dict):
        return {name: _comparable(value) for name, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state

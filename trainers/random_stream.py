"""Python's and numpy's global generators as one loader sees them.

A loader that shuffles draws from the global generators. Each loader is given states of its own, which are in force
while a batch is drawn: its order then depends on neither the other loader nor anything else that draws numbers, and
can be repeated from the state at the start of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import random
from typing import Any

import numpy as np


class RandomStream:
    """A pair of generator states.

    Args:
        seed: where the states start.
    """

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the global generators be this stream inside the block."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)

    def state_dict(self) -> dict[str, Any]:
        """The states as numbers and arrays."""
        return packed_states(self._python, self._numpy)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._python, self._numpy = unpacked_states(state)


def packed_states(python: Any, numpy: Any) -> dict[str, Any]:
    """States of Python's and numpy's generators as a checkpoint holds them."""
    return {
        "python": {"version": python[0], "words": np.array(python[1], np.int64), "gauss": python[2]},
        "numpy": {"name": numpy[0], "words": numpy[1], "rest": list(numpy[2:])},
    }


def unpacked_states(state: dict[str, Any]) -> tuple[Any, Any]:
    """What ``random.setstate`` and ``numpy.random.set_state`` take."""
    python, numpy = state["python"], state["numpy"]
    words = tuple(int(word) for word in python["words"])
    return (python["version"], words, python["gauss"]), (numpy["name"], numpy["words"], *numpy["rest"])

"""Python's and numpy's global generators as one loader sees them.

A loader that shuffles draws from the global generators. Each loader is given states of its own, which are in force
while a batch is drawn: its order then depends on neither the other loader nor anything else that draws numbers, and
can be repeated from the state at the start of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import math
import random
from typing import Any

import numpy as np

_WORDS = 624  # of a Mersenne Twister's state


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
    """What ``random.setstate`` and ``numpy.random.set_state`` take.

    Neither looks at all that it is given, and numpy reads memory that is not its own from a wrong position.

    Raises:
        KeyError: if something is missing.
        ValueError: if they are no states.
    """
    python, numpy = state["python"], state["numpy"]
    forms = [(state, {"python", "numpy"}), (python, {"version", "words", "gauss"}), (numpy, {"name", "words", "rest"})]
    if not all(isinstance(part, dict) and set(part) == keys for part, keys in forms):
        raise ValueError("generators must hold the states of Python's and numpy's generators alone")
    words, (position, has_gauss, gauss) = python["words"], numpy["rest"]
    sound = (
        type(python["version"]) is int
        and python["version"] == random.Random().getstate()[0]
        and _are_words(words, np.int64, _WORDS + 1)
        and int(words[-1]) <= _WORDS
        and (python["gauss"] is None or (type(python["gauss"]) is float and math.isfinite(python["gauss"])))
        and numpy["name"] == "MT19937"
        and _are_words(numpy["words"], np.uint32, _WORDS)
        and type(position) is int
        and 0 <= position <= _WORDS
        and type(has_gauss) is int
        and has_gauss in (0, 1)
        and type(gauss) is float
        and math.isfinite(gauss)
    )
    if not sound:
        raise ValueError("generators holds no states of Python's and numpy's generators")
    return (
        (python["version"], tuple(int(word) for word in words), python["gauss"]),
        (numpy["name"], numpy["words"], position, has_gauss, gauss),
    )


def _are_words(array: Any, dtype: type[np.generic], length: int) -> bool:
    """Whether this is an array of so many 32-bit numbers."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.shape == (length,)
        and bool(((array >= 0) & (array < 2**32)).all())
    )

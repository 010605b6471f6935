"""The factor that keeps gradients from vanishing in float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

FIRST = 2.0**15
LARGEST = 2.0**24
GOOD_STEPS = 200
"""After so many outer steps in a row in which nothing overflowed the factor is doubled."""


class LossScale:
    """What a loss is multiplied by before its gradient is taken, and the gradient divided by afterwards.

    The smallest number of float16 is 6e-8, and a cotangent below it counts as 0. A dynamic factor is halved where a
    step overflowed, which is then left out, and doubled after :data:`GOOD_STEPS` steps that did not; below 1 it does
    not go, since what overflows then is no gradient.

    Args:
        fixed: a factor that stays; None for a dynamic one.

    Attributes:
        value: the factor.
        good_steps: how many steps in a row did not overflow since the factor has changed.
    """

    def __init__(self, fixed: float | None = None) -> None:
        self._dynamic = fixed is None
        self.value = FIRST if fixed is None else float(fixed)
        self.good_steps = 0

    @property
    def may_be_halved(self) -> bool:
        """Whether a step that overflowed may be tried with a smaller factor."""
        return self._dynamic and self.value > 1.0

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, value: float, good_steps: int) -> None:
        """Take back what :meth:`state` gave."""
        self.value, self.good_steps = value, good_steps

    def halve(self) -> None:
        """Take half of the factor, after a step that overflowed."""
        self.value, self.good_steps = max(1.0, self.value / 2.0), 0

    def count_good_step(self) -> None:
        """Note a step that did not overflow."""
        if not self._dynamic:
            return
        self.good_steps += 1
        if self.good_steps >= GOOD_STEPS:
            self.value, self.good_steps = min(LARGEST, 2.0 * self.value), 0


@contextmanager
def kept(scale: LossScale | None) -> Iterator[None]:
    """Let a factor, where there is one, be what it was after the block."""
    before = None if scale is None else (scale.value, scale.good_steps)
    try:
        yield
    finally:
        if scale is not None and before is not None:
            scale.restore(*before)

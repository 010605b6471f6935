"""How many tasks fit into the memory that is free."""

from __future__ import annotations

import gc
import logging
import sys

from jboat import number_of_checkpoints
from jboat.backend import free_memory
from jboat.trajectory import Trajectory
import jittor as jt

logger = logging.getLogger("jboat")


class MemoryOfTask:
    """What one task takes at most, seen in a step that is taken alone.

    Args:
        rebuilt_at_once: how many lower steps the way back rebuilds at once; 0 where it finds their graphs.

    Attributes:
        size: in bytes, what the lower loop leaves and what the way back builds besides; 0 before a step.
    """

    def __init__(self, rebuilt_at_once: int) -> None:
        self.size = 0
        self._rebuilt = max(1, rebuilt_at_once)
        self._trajectory: Trajectory | None = None
        gc.collect()  # else what Python lets go of meanwhile would be taken off
        jt.gc()  # else what nobody holds any more counts
        self._before = free_memory.held()

    def on_lower_step(self, step: int, trajectory: Trajectory) -> None:
        """See which trajectory a lower loop extends."""
        self._trajectory = trajectory

    def call(self, hook: str, *extra: object) -> None:
        """Measure where a lower loop has ended, and the way back has not begun."""
        if hook != "on_lower_loop_end" or self._trajectory is None:
            return
        left = free_memory.held() - self._before
        self.size = max(self.size, left + self._rebuilt * self._trajectory.size_of_step().graph)
        self._trajectory = None


def tasks_that_fit(bytes_a_task: int) -> int:
    """How many tasks may be computed together, at least one; any number where nobody says how much memory is free.

    Args:
        bytes_a_task: what one of them takes.
    """
    free = free_memory.free()
    if free is None:
        logger.warning(
            "tasks_together='auto': how much memory is free is not known, and all tasks of a step are computed at "
            "once; give a number instead"
        )
        return sys.maxsize
    return max(1, int(number_of_checkpoints.USED * free) // max(1, bytes_a_task))
